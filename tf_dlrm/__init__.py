"""DLRM (Naumov et al. 2019, arXiv 1906.00091) for Keras and TensorFlow.

Importing the package imports neither TensorFlow nor Keras, so that an entry point can still choose
the Keras of its process. Import what is needed from the rooms: `tf_dlrm.embeddings`,
`tf_dlrm.layers`, `tf_dlrm.models`.
"""

__version__ = "0.1.0"
