#include "libccq/ccq.h"
int main(void) { return 0; }
