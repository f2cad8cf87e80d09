/* Waits for a signal that ends it: what a pod's first process does elsewhere. */
#include <unistd.h>

int main(void) {
	for (;;)
		pause();
}
