/* A driver's side of virtio over MMIO (virtio 1.2, section 4.2), two queues a device at most, polled. */
#pragma once
#include "machine.h"

#ifndef WINDOWS
#error "WINDOWS, WINDOW_BYTES and WINDOW_COUNT say where the monitor has its virtio-mmio windows"
#endif

enum { MAGIC = 0x00, VERSION = 0x04, KIND = 0x08, DRIVER_FEATURES = 0x20, DRIVER_FEATURES_SELECT = 0x24, QUEUE_SELECT = 0x30,
       QUEUE_SIZE = 0x38, QUEUE_READY = 0x44, NOTIFY = 0x50, INTERRUPT = 0x60, ACKNOWLEDGE = 0x64, STATUS = 0x70,
       DESCRIPTORS = 0x80, AVAILABLE = 0x90, USED = 0xa0, CONFIG = 0x100 };
enum { NET = 1, BLOCK = 2, ENTROPY = 4 };
enum { SIZE = 8, DEVICES = 4, QUEUES = 2, VIRT = 0x74726976 };
enum { NEXT = 1, WRITE = 2 };

struct descriptor { u64 address; u32 bytes; u16 flags, next; };
struct ring {
	struct descriptor descriptors[SIZE];
	struct { u16 flags, index, ring[SIZE], event; } available __attribute__((aligned(64)));
	struct { u16 flags, index; struct { u32 id, bytes; } ring[SIZE]; u16 event; } used __attribute__((aligned(64)));
} __attribute__((aligned(4096)));

struct device { u64 window; struct ring *rings; u16 seen; };

static struct ring rings[DEVICES * QUEUES];
static struct device devices[DEVICES];
static int device_count;

static inline u32 device_read(struct device *device, int offset)
{
	return *(volatile u32 *)(device->window + offset);
}

static inline void device_write(struct device *device, int offset, u32 value)
{
	*(volatile u32 *)(device->window + offset) = value;
}

static inline u64 device_config64(struct device *device, int offset)
{
	return device_read(device, CONFIG + offset) | (u64)device_read(device, CONFIG + offset + 4) << 32;
}

static inline void device_notify(struct device *device, int queue)
{
	device_write(device, NOTIFY, queue);
}

/* The first device of a kind; 0: of any. */
static struct device *device_find(u32 kind)
{
	for (int number = 0; number < WINDOW_COUNT; number++) {
		struct device found = { WINDOWS + (u64)number * WINDOW_BYTES, 0, 0 };
		if (device_read(&found, MAGIC) != VIRT || device_read(&found, VERSION) != 2)
			continue;
		u32 has = device_read(&found, KIND);
		if (!has || (kind && has != kind) || device_count == DEVICES)
			continue;
		struct device *device = &devices[device_count];
		*device = found;
		device->rings = &rings[QUEUES * device_count++];
		return device;
	}
	return 0;
}

static void device_address(struct device *device, int offset, void *place)
{
	device_write(device, offset, (u64)place);
	device_write(device, offset + 4, (u64)place >> 32);
}

static void device_queue(struct device *device, int queue)
{
	struct ring *ring = &device->rings[queue];
	device_write(device, QUEUE_SELECT, queue);
	device_write(device, QUEUE_SIZE, SIZE);
	device_address(device, DESCRIPTORS, ring->descriptors);
	device_address(device, AVAILABLE, &ring->available);
	device_address(device, USED, &ring->used);
	ring->available.flags = 1; /* no interrupts: the answer is polled */
	device_write(device, QUEUE_READY, 1);
}

/* Sets so many queues up; 0 if the device does not want them. */
static int device_start(struct device *device, int queues)
{
	device_write(device, STATUS, 0);
	device_write(device, STATUS, 1 | 2);
	device_write(device, DRIVER_FEATURES_SELECT, 0);
	device_write(device, DRIVER_FEATURES, 0);
	device_write(device, DRIVER_FEATURES_SELECT, 1);
	device_write(device, DRIVER_FEATURES, 1); /* VIRTIO_F_VERSION_1 */
	device_write(device, STATUS, 1 | 2 | 8);
	if (!(device_read(device, STATUS) & 8))
		return 0;
	for (int queue = 0; queue < queues; queue++)
		device_queue(device, queue);
	device_write(device, STATUS, 1 | 2 | 8 | 4);
	return device_read(device, STATUS) == (1 | 2 | 8 | 4);
}

/* Offers the chain at a queue's descriptor 0 and waits for its answer. One queue of a device is used so. */
static void device_ask(struct device *device, int queue)
{
	struct ring *ring = &device->rings[queue];
	ring->available.ring[ring->available.index % SIZE] = 0;
	__asm__ volatile("" : : : "memory");
	*(volatile u16 *)&ring->available.index = ring->available.index + 1;
	__asm__ volatile("mfence" : : : "memory");
	device_notify(device, queue);
	while (*(volatile u16 *)&ring->used.index == device->seen)
		__asm__ volatile("pause" : : : "memory");
	device->seen++;
}

static struct { u32 kind, reserved; u64 sector; } header;
static volatile u8 outcome;

static void block_read(struct device *disk, u64 sector, void *into, u32 bytes)
{
	header.kind = 0; /* VIRTIO_BLK_T_IN */
	header.sector = sector;
	outcome = 255;
	/* Four pieces at most: the monitor may limit the size of each. */
	struct descriptor *chain = disk->rings[0].descriptors;
	chain[0] = (struct descriptor){ (u64)&header, 16, NEXT, 1 };
	int last = 1;
	for (u32 done = 0; done < bytes; last++) {
		u32 piece = bytes - done < 256 << 10 ? bytes - done : 256 << 10;
		chain[last] = (struct descriptor){ (u64)into + done, piece, NEXT | WRITE, last + 1 };
		done += piece;
	}
	chain[last] = (struct descriptor){ (u64)&outcome, 1, WRITE, 0 };
	device_ask(disk, 0);
	if (outcome != 0)
		print("a read failed\n");
}

/* One frame: virtio_net_hdr with its num_buffers, all zeroes, before it. */
static void net_send(struct device *net, void *frame, u32 bytes)
{
	static u8 net_header[12];
	enum { TRANSMIT = 1 };
	struct descriptor *chain = net->rings[TRANSMIT].descriptors;
	chain[0] = (struct descriptor){ (u64)net_header, sizeof(net_header), NEXT, 1 };
	chain[1] = (struct descriptor){ (u64)frame, bytes, 0, 0 };
	device_ask(net, TRANSMIT);
}
