// One instruction set: TF_DLRM_PATH is its name, and the compiler's flags allow it.
#include "interaction.h"
#include "lookup.h"
#include "update.h"

namespace tf_dlrm::TF_DLRM_PATH {

extern const Path kPath = {Lookup, Update, Products, Pull, Unbias};

}  // namespace tf_dlrm::TF_DLRM_PATH
