// TensorFlow's operations, in one file: its headers take most of the time to compile.
#include "interaction_ops.h"
#include "table_ops.h"
