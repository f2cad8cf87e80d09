/* The least that a monitor can be: one vCPU, a loop around KVM_RUN, answers that need no thought, and a thread that
 * waits for a queue's notifications. It runs the benchmark's guest as `floor GUEST` and prints what that prints. What
 * the guest asks beyond exits it has not. */
#include <elf.h>
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MEMORY = 64 << 20, GDT = 0x500, TABLES = 0x9000, SERIAL = 0x3f8 };
/* One virtio-mmio window, whose queue is told of by an eventfd. */
enum { NOTIFY = 0x50, READY = 0x70, KIND = 8, ENTROPY = 4 };
static const unsigned long window = WINDOWS;

static int call(int fd, unsigned long request, void *argument, const char *what)
{
	int result = ioctl(fd, request, argument);
	if (result < 0)
		err(1, "%s", what);
	return result;
}

/* Loads the guest's ELF file and answers its entry. */
static unsigned long load(const char *path, unsigned char *memory)
{
	int fd = open(path, O_RDONLY);
	off_t bytes = lseek(fd, 0, SEEK_END);
	unsigned char *file = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
	if (fd < 0 || file == MAP_FAILED)
		err(1, "%s", path);
	Elf64_Ehdr *header = (void *)file;
	for (int i = 0; i < header->e_phnum; i++) {
		Elf64_Phdr *part = (void *)(file + header->e_phoff + i * header->e_phentsize);
		if (part->p_type == PT_LOAD)
			memcpy(memory + part->p_paddr, file + part->p_offset, part->p_filesz);
	}
	return header->e_entry;
}

/* 64-bit mode with the first GiB mapped, as Linux is entered. */
static void start(int vcpu, unsigned char *memory, unsigned long entry)
{
	unsigned long *tables = (void *)(memory + TABLES), *gdt = (void *)(memory + GDT);
	tables[0] = TABLES + 0x1000 + 3;
	tables[512] = TABLES + 0x2000 + 3;
	for (unsigned long i = 0; i < 512; i++)
		tables[1024 + i] = (i << 21) + 0x83;
	gdt[1] = 0x00af9b000000ffff;
	gdt[2] = 0x00cf93000000ffff;
	struct kvm_sregs special;
	call(vcpu, KVM_GET_SREGS, &special, "KVM_GET_SREGS");
	struct kvm_segment code = { .limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1 };
	struct kvm_segment data = { .limit = ~0u, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1 };
	special.cs = code;
	special.ds = special.es = special.fs = special.gs = special.ss = data;
	special.gdt = (struct kvm_dtable){ .base = GDT, .limit = 23 };
	special.cr0 = 0x80000031;
	special.cr3 = TABLES;
	special.cr4 = 0x620;
	special.efer = 0x500;
	call(vcpu, KVM_SET_SREGS, &special, "KVM_SET_SREGS");
	struct kvm_regs registers = { .rip = entry, .rflags = 2 };
	call(vcpu, KVM_SET_REGS, &registers, "KVM_SET_REGS");
}

static unsigned int mmio(unsigned long offset)
{
	static const unsigned int head[] = { 0x74726976, 2, ENTROPY };
	static const unsigned int statuses[] = { 1 | 2 | 8, 1 | 2 | 8 | 4 };
	static unsigned int asked;
	if (offset == READY)
		return statuses[asked++ != 0];
	return offset <= KIND ? head[offset / 4] : 0;
}

/* Takes the notifications, as a device's thread does, that looks at an empty queue then. Without it a notification
 * would wake nobody, and cost what it costs in no monitor. */
static void *take(void *argument)
{
	int kick = *(int *)argument, loop = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event = { .events = EPOLLIN };
	if (loop < 0 || epoll_ctl(loop, EPOLL_CTL_ADD, kick, &event) < 0)
		err(1, "epoll");
	for (;;) {
		eventfd_t count;
		if (epoll_wait(loop, &event, 1, -1) > 0)
			eventfd_read(kick, &count);
	}
}

int main(int count, char **arguments)
{
	if (count != 2)
		errx(2, "usage: floor GUEST");
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		err(1, "/dev/kvm");
	int vm = call(kvm, KVM_CREATE_VM, NULL, "KVM_CREATE_VM");
	unsigned char *memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region region = { .memory_size = MEMORY, .userspace_addr = (unsigned long)memory };
	call(vm, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
	struct kvm_ioeventfd kick = { .addr = window + NOTIFY, .len = 4, .fd = eventfd(0, EFD_NONBLOCK),
				      .flags = KVM_IOEVENTFD_FLAG_DATAMATCH };
	call(vm, KVM_IOEVENTFD, &kick, "KVM_IOEVENTFD");
	static int notified;
	pthread_t thread;
	notified = kick.fd;
	if (pthread_create(&thread, NULL, take, &notified))
		errx(1, "pthread_create");
	int vcpu = call(vm, KVM_CREATE_VCPU, NULL, "KVM_CREATE_VCPU");
	size_t bytes = call(kvm, KVM_GET_VCPU_MMAP_SIZE, NULL, "KVM_GET_VCPU_MMAP_SIZE");
	struct kvm_run *run = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	start(vcpu, memory, load(arguments[1], memory));
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (;;) {
		call(vcpu, KVM_RUN, NULL, "KVM_RUN");
		unsigned char *data = (unsigned char *)run + run->io.data_offset;
		switch (run->exit_reason) {
		case KVM_EXIT_IO:
			if (run->io.direction == KVM_EXIT_IO_IN)
				*data = 0;
			else if (run->io.port == SERIAL)
				putchar(*data);
			break;
		case KVM_EXIT_MMIO:
			if (!run->mmio.is_write) {
				unsigned int value = 0;
				if (run->mmio.phys_addr >= window && run->mmio.phys_addr < window + 0x200)
					value = mmio(run->mmio.phys_addr - window);
				memcpy(run->mmio.data, &value, sizeof(value));
			}
			break;
		default:
			errx(1, "the guest ended with exit %u", run->exit_reason);
		}
	}
}
