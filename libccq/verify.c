#include "formats/types.h"
