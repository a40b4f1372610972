// One instruction set: TF_DLRM_PATH is its name, and the compiler's flags allow it.
#include "core.h"
