"""Packaging of tf-dlrm: the model and its training (tf_dlrm), and its data (tfrecords)."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="tf-dlrm",
    version="0.1.0",
    description="Deep learning recommendation models (DLRM) on TensorFlow and Keras",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["tf_dlrm", "tf_dlrm.*", "tfrecords", "tfrecords.*"]),
    install_requires=[
        "absl-py>=1.4",
        "google-crc32c>=1.5",
        "keras>=3.10,<3.16",
        "matplotlib>=3.8",
        "numpy>=1.26",
        "protobuf>=4.25",
        "pyarrow>=14",
        "scikit-learn>=1.3",
        "tensorboard>=2.17",
        "tensorflow>=2.17,<2.22",
        # tf-keras pins the TensorFlow of its own number, so the resolver picks the matching one.
        "tf-keras>=2.17,<2.22",
        "tensorflow-recommenders>=0.7.3",
        'tomli>=2; python_version < "3.11"',
        "tomli-w>=1",
    ],
    package_data={
        "tf_dlrm.kernels": ["*.cc", "*.h"],
        "tf_dlrm.planner": ["hardware/*.toml"],
        "tfrecords.conversion": ["descriptions/*.toml"],
    },
    extras_require={
        "beam": ["apache-beam>=2.60"],
        "test": [
            "hypothesis>=6.100",
            "mypy>=1.10",
            "pytest>=8",
            "pytest-xdist>=3.7",
            "pyyaml>=6",
            "ruff>=0.6",
            "tensorflow-serving-api>=2.17,<2.22",
        ],
        # The gRPC client of TensorFlow Serving; pins the TensorFlow of its own number or newer.
        "serving": ["tensorflow-serving-api>=2.17,<2.22"],
        # Servers and runtimes that are not ours, to try exported models in. nvidia-pytriton holds
        # the server itself and asks for an old numpy, and so for an old pyarrow.
        "servers": [
            "nvidia-pytriton>=0.7,<0.8",
            "openvino>=2026,<2027",
            "numpy<2",
            "portpicker>=1.5",
            "pyarrow<22",
        ],
        # tensorflow-io's shared objects load in TensorFlow 2.16 and 2.17 only.
        "io": ["tensorflow-io==0.37.1", "tensorflow>=2.17,<2.18", "numpy<2", "pyarrow<18"],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)
