/* A guest without a kernel: it measures what its exits and its devices cost, and prints a line for each on the serial
 * port, "name cycles-per-operation". It runs in ring 3, natively wherever KVM is, even where ring 0 is emulated. */
#include "machine.h"
#include "virtio.h"

enum { ROUNDS = 5, EXITS = 2000, READS = 500, LARGE_READS = 40, LARGE = 1 << 20, FRAMES = 500, FRAME = 64 << 10 };

static u8 buffer[LARGE] __attribute__((aligned(4096)));
static u64 samples[ROUNDS];

/* The median of the samples, printed. */
static void report(const char *name, u64 operations)
{
	for (int i = 1; i < ROUNDS; i++)
		for (int j = i; j > 0 && samples[j] < samples[j - 1]; j--) {
			u64 other = samples[j];
			samples[j] = samples[j - 1];
			samples[j - 1] = other;
		}
	print(name);
	print(" ");
	print_number(samples[ROUNDS / 2] / operations);
	print("\n");
}

#define MEASURE(name, operations, operation)                        \
	do {                                                        \
		for (int round = 0; round < ROUNDS; round++) {      \
			u64 begun = cycles();                       \
			for (int i = 0; i < (operations); i++)      \
				operation;                          \
			samples[round] = cycles() - begun;          \
		}                                                   \
		report(name, operations);                           \
	} while (0)

static u64 random_state = 88172645463325252ull;

static u64 next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static void block(struct device *disk)
{
	u64 sectors = device_config64(disk, 0);
	if (!sectors) {
		print("the disk is empty\n");
		return;
	}
	u64 pages = sectors / 8, pieces = sectors / (LARGE / 512), at = 0;
	MEASURE("read4k", READS, block_read(disk, next_random() % pages * 8, buffer, 4096));
	MEASURE("read1m", LARGE_READS, block_read(disk, at++ % pieces * (LARGE / 512), buffer, LARGE));
}

static void frames(struct device *net)
{
	/* To nobody, of a kind that no host knows: the last two bytes are an experiment's (IEEE 802). */
	static const u8 head[14] = { 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5 };
	for (unsigned i = 0; i < sizeof(head); i++)
		buffer[i] = head[i];
	MEASURE("frames", FRAMES, net_send(net, buffer, FRAME));
}

void bench_main(void)
{
	print("up\n");
	/* The serial port's scratch register: the monitor has nothing to do but answer. */
	MEASURE("pio", EXITS, port_in(SERIAL + 7));
	struct device *any = device_find(0);
	if (any)
		MEASURE("mmio", EXITS, device_read(any, MAGIC));
	struct device *entropy = device_find(ENTROPY);
	if (entropy && device_start(entropy, 1)) {
		/* The queue is empty: a device that is told has nothing to do. */
		MEASURE("ioeventfd", EXITS, device_notify(entropy, 0));
	}
	struct device *disk = device_find(BLOCK);
	if (disk && device_start(disk, 1))
		block(disk);
	struct device *net = device_find(NET);
	if (net && device_start(net, 2))
		frames(net);
	print("done\n");
	for (;;)
		port_in(SERIAL + 7);
}
