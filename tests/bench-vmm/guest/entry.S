# Where a monitor enters the guest: QEMU by the PVH note in 32-bit protected mode, others in 64-bit mode. Both lead to
# bench_main in ring 3, with all ports open to it and the first 4 GiB mapped as they are.
    .section .note.Xen, "a", @note
    .align 4
    .long 4, 4, 18                  # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long start32

    .text
    .code32
start32:
    cli
    mov $stack_top, %esp
    call map
    mov $pml4, %eax
    mov %eax, %cr3
    mov %cr4, %eax
    or $0x620, %eax                 # PAE, OSFXSR, OSXMMEXCPT
    mov %eax, %cr4
    mov $0xc0000080, %ecx           # EFER
    rdmsr
    or $0x100, %eax                 # LME
    wrmsr
    mov %cr0, %eax
    or $0x80000001, %eax            # PG, PE
    mov %eax, %cr0
    lgdt gdtr
    ljmp $8, $ring3

# 2 MiB pages that ring 3 may use. Both modes call it: its instructions mean the same in both, as none names a place in
# memory by itself, and all that they address is below 4 GiB.
map:
    mov $pd, %edi
    mov $0x87, %eax
    mov $2048, %ecx
1:  mov %eax, (%edi)
    add $0x200000, %eax
    add $8, %edi
    loop 1b
    mov $pdpt, %edi
    mov $pd + 7, %eax
    mov $4, %ecx
2:  mov %eax, (%edi)
    add $4096, %eax
    add $8, %edi
    loop 2b
    mov $pml4, %edi
    mov $pdpt + 7, %eax
    mov %eax, (%edi)
    ret

    .code64
    .globl start64
start64:
    cli
    mov $stack_top, %esp
    call map
    mov $pml4, %eax
    mov %rax, %cr3
    lgdt gdtr
ring3:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $stack_top, %esp
    push $0x23                      # ss
    mov $stack_top - 8, %eax
    push %rax                       # rsp
    push $0x3002                    # rflags: IOPL 3
    push $0x1b                      # cs
    mov $bench_main, %eax
    push %rax                       # rip
    iretq

    .align 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff        # 0x08: code, ring 0
    .quad 0x00cf93000000ffff        # 0x10: data, ring 0
    .quad 0x00affb000000ffff        # 0x18: code, ring 3
    .quad 0x00cff3000000ffff        # 0x20: data, ring 3
gdtr:
    .word . - gdt - 1
    .long gdt, 0

    .bss
    .align 4096
pml4:   .skip 4096
pdpt:   .skip 4096
pd:     .skip 4 * 4096
stack:  .skip 4 * 4096
stack_top:

    .section .note.GNU-stack, "", @progbits
