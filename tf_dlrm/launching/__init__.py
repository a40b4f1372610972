"""Local processes for `tf_dlrm.launch`: started, heard, and ended together.

Nothing here imports TensorFlow: what is started does.
"""
