#include "formats/config.h"
