/* Ports, time and text. */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

enum { SERIAL = 0x3f8 };

static inline void port_out(u16 port, u8 value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline u8 port_in(u16 port)
{
	u8 value;
	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline u64 cycles(void)
{
	u32 low, high;
	__asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (u64)high << 32 | low;
}

static inline void print(const char *text)
{
	while (*text)
		port_out(SERIAL, *text++);
}

static inline void print_number(u64 number)
{
	char digits[24];
	int at = sizeof(digits) - 1;
	digits[at] = 0;
	do
		digits[--at] = '0' + number % 10;
	while (number /= 10);
	print(digits + at);
}
