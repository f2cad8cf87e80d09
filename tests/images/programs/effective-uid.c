/* Says as whom it runs; installed set-user-ID, it tells whether that was honoured. */
#include <stdio.h>
#include <unistd.h>

int main(void) {
	printf("Effective uid: %ld\n", (long)geteuid());
	return 0;
}
