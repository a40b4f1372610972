"""From click logs in other formats to a data set folder: formats, and the engine they share."""
