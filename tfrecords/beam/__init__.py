"""The conversion as an Apache Beam pipeline, for data that one machine cannot hold."""
