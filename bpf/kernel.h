/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The kernel types that bpfence reads, and of each only the members it reads. Offsets come from the running kernel's BTF
 * (CO-RE); a member that only some kernels have lives in a flavour in compat.h.
 */
#ifndef BPFENCE_KERNEL_H
#define BPFENCE_KERNEL_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef __s64 s64;

#define EPERM 1
#define EAGAIN 11
#define MS_REMOUNT 32
#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define AF_RXRPC 33
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define SOCK_RAW 3
#define SOCK_SEQPACKET 5
#define SOCK_DCCP 6
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_DCCP 33
#define IPPROTO_SCTP 132
#define MSG_FASTOPEN 0x20000000
#define SCTP_SOCKOPT_BINDX_ADD 100
#define SCTP_SOCKOPT_CONNECTX 110
#define SCTP_SENDMSG_CONNECT 126
#define FMODE_READ 0x1
#define FMODE_WRITE 0x2
#define FMODE_EXEC 0x20
#define FMODE_CREATED 0x100000
#define O_CREAT 0100
#define O_TRUNC 01000
#define O_APPEND 02000
#define O_DIRECTORY 0200000
#define RENAME_EXCHANGE 2
#define MAY_EXEC 1
#define MAY_WRITE 2
#define MAY_READ 4
#define MAY_APPEND 8
#define PROT_READ 1
#define PROT_WRITE 2
#define PROT_EXEC 4
#define PROT_USUAL (PROT_READ | PROT_WRITE | PROT_EXEC)
#define MAP_SHARED 1
#define MAP_SHARED_VALIDATE 3
#define VM_SHARED 8
#define S_IFMT 0170000
#define S_IFREG 0100000
#define S_IFDIR 0040000
#define ATTR_MODE 1
#define ATTR_UID 2
#define ATTR_GID 4
#define ATTR_SIZE 8
#define ATTR_ATIME_SET 0x80
#define ATTR_MTIME_SET 0x100
#define ATTR_TIMES_SET 0x10000
#define ATTR_TOUCH 0x20000
/* Of include/uapi; FS_IOC32_* are what the 32-bit table has for a long. */
#define FS_IOC_SETFLAGS 0x40086602
#define FS_IOC32_SETFLAGS 0x40046602
#define FS_IOC_SETVERSION 0x40087602
#define FS_IOC32_SETVERSION 0x40047602
#define FS_IOC_FSSETXATTR 0x401c5820
#define FS_IOC_SET_ENCRYPTION_POLICY 0x800c6613
#define FS_IOC_ENABLE_VERITY 0x40806685
#define FAT_IOCTL_SET_ATTRIBUTES 0x40047211
#define EXT4_IOC_SETVERSION 0x40086604
#define EXT4_IOC32_SETVERSION 0x40046604
#define XFS_IOC_ALLOCSP 0x4030580a
#define XFS_IOC_FREESP 0x4030580b
#define XFS_IOC_ALLOCSP64 0x40305824
#define XFS_IOC_FREESP64 0x40305825
#define EXT4_IOC_MOVE_EXT 0xc028660f
#define EXT4_IOC_SWAP_BOOT 0x6611
#define NR_SETNS 308 /* x86-64 */
#define NR_IOCTL 16
#define NR_IOCTL_X32 514
#define NR_IOCTL_COMPAT 54
#define NR_SETNS_COMPAT 346 /* its 32-bit table */
#define NSFS_MAGIC 0x6e736673
#define READ_IMPLIES_EXEC 0x0400000
#define NR_CONNECT 42 /* x86-64; of the 32-bit table: */
#define NR32_CONNECT 362
#define NR_MKNOD 133
#define NR32_MKNOD 14
#define NR_MKNODAT 259
#define NR32_MKNODAT 297
#define NR_BIND 49
#define NR32_BIND 361
#define NR32_SOCKETCALL 102
#define SOCKETCALL_BIND 2
#define SOCKETCALL_CONNECT 3
#define NR_RECVMMSG 299
#define NR32_RECVMMSG 337
#define NR32_RECVMMSG_TIME64 417
#define SOCKETCALL_RECVMMSG 19
#define THREAD_SIZE 16384
#define SIZEOF_PT_REGS 168
#define SIGKILL 9
#define SIGIO 29
#define CLONE_THREAD 0x10000
#define S_IFSOCK 0140000
#define S_IFIFO 0010000
#define S_IWUSR 0200
#define S_IWGRP 0020
#define S_IWOTH 0002
#define CAP_DAC_OVERRIDE 1
#define AT_FDCWD -100
#define NR_IO_URING_ENTER 426 /* every architecture */
#define X32_SYSCALL_BIT 0x40000000
#define TS_COMPAT 2
#define PF_IO_WORKER 0x10
#define PF_KTHREAD 0x200000
#define PIDTYPE_PID 0
#define PIDTYPE_TGID 1
#define PIDTYPE_PGID 2
#define PIDTYPE_SID 3
#define OVERLAYFS_SUPER_MAGIC 0x794c7630
#define PIPEFS_MAGIC 0x50495045
#define PROC_SUPER_MAGIC 0x9fa0

/* A mask that clang may not reason away: it drops an `&` that an earlier comparison makes needless, but the verifier has lost the
 * comparison by then (5.10 to 7.3, clang 14: "R2 unbounded memory access").
 */
#define MASKED(value, mask) ({ u64 masked_ = (value); asm volatile("%0 &= %1" : "+r"(masked_) : "i"(mask)); masked_; })

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct qstr {
	union {
		struct {
			u32 hash;
			u32 len;
		};
		u64 hash_len;
	};
	const unsigned char *name;
};

typedef struct {
	u32 val;
} kuid_t;

typedef struct {
	u32 val;
} kgid_t;

struct file_system_type {
	const char *name;
};

struct super_block {
	u32 s_dev;
	unsigned long s_magic;
	struct file_system_type *s_type;
	struct dentry *s_root;
};

struct inode {
	u16 i_mode;
	kuid_t i_uid;
	kgid_t i_gid;
	struct super_block *i_sb;
	unsigned long i_ino;
	unsigned int i_nlink;
	struct address_space *i_mapping;
	void *i_private;
};

struct timespec64 {
	s64 tv_sec;
	s64 tv_nsec;
};

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
	struct super_block *d_sb;
};

struct vfsmount {
	struct dentry *mnt_root;
	struct super_block *mnt_sb;
};

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
	struct mnt_namespace *mnt_ns;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct file {
	struct path f_path;
	struct inode *f_inode;
	struct address_space *f_mapping;
	void *private_data;
	unsigned int f_flags;
	unsigned int f_mode;
};

struct vm_area_struct {
	unsigned long vm_flags;
	struct file *vm_file;
	struct anon_vma *anon_vma;
};

struct linux_binprm {
	struct file *file;
	char buf[2];
};

struct ns_common {
	unsigned int inum;
};

struct user_namespace {
	int level;
	kuid_t owner;
	kgid_t group;
	struct ns_common ns;
};

struct uts_namespace {
	struct ns_common ns;
};

struct ipc_namespace {
	struct ns_common ns;
};

struct time_namespace {
	struct ns_common ns;
};

struct cgroup_namespace {
	struct ns_common ns;
};

struct mnt_namespace {
	struct ns_common ns;
	struct mount *root;
};

struct pid_namespace {
	struct task_struct *child_reaper;
	struct ns_common ns;
};

struct net {
	struct ns_common ns;
};

struct nsproxy {
	struct uts_namespace *uts_ns;
	struct ipc_namespace *ipc_ns;
	struct mnt_namespace *mnt_ns;
	struct pid_namespace *pid_ns_for_children;
	struct net *net_ns;
	struct time_namespace *time_ns;
	struct time_namespace *time_ns_for_children;
	struct cgroup_namespace *cgroup_ns;
};

/* v6.3 (f122a08b197d) made two u32 one u64: the same eight bytes. */
typedef struct {
	u64 val;
} kernel_cap_t;

struct cred {
	kuid_t uid;
	kgid_t gid;
	kuid_t suid;
	kgid_t sgid;
	kuid_t euid;
	kgid_t egid;
	kuid_t fsuid;
	kgid_t fsgid;
	unsigned int securebits;
	kernel_cap_t cap_inheritable;
	kernel_cap_t cap_permitted;
	kernel_cap_t cap_effective;
	kernel_cap_t cap_bset;
	struct user_namespace *user_ns;
};

struct kernfs_node {
	const char *name;
	u64 id;
};

struct list_head {
	struct list_head *next;
};

struct cgroup_subsys_state {
	struct list_head sibling;
	struct list_head children;
	struct cgroup_subsys_state *parent;
};

struct cgroup {
	struct cgroup_subsys_state self;
	int level;
	struct kernfs_node *kn;
	struct list_head cset_links;
	struct cgroup *dom_cgrp;
	int nr_threaded_children;
};

struct css_set {
	struct cgroup *dfl_cgrp;
	int nr_tasks;
};

struct cgrp_cset_link {
	struct css_set *cset;
	struct list_head cset_link;
};

typedef struct {
	int counter;
} atomic_t;

struct upid {
	int nr;
	struct pid_namespace *ns;
};

struct hlist_node {
	struct hlist_node *next;
};

struct hlist_head {
	struct hlist_node *first;
};

struct pid {
	unsigned int level;
	struct hlist_head tasks[4];
	struct upid numbers[1];
};

struct tty_driver {
	int major;
	int minor_start;
};

struct tty_struct {
	int index;
	struct tty_driver *driver;
};

struct signal_struct {
	atomic_t live;
	int nr_threads;
	struct pid *pids[4];
	struct tty_struct *tty;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	atomic_t count;
	struct fdtable *fdt;
};

struct filename {
	const char *name;
};

struct open_flags {
	int open_flag;
	int acc_mode;
};

struct thread_info {
	u32 status; /* x86 */
};

struct fs_struct {
	struct path pwd;
};

struct mm_struct {
	unsigned long arg_start;
	unsigned long arg_end;
	struct file *exe_file;
};

struct task_struct {
	int pid;
	int tgid;
	unsigned int flags;
	unsigned int personality;
	int exit_code;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	const struct cred *cred;
	const struct cred *real_cred;
	struct mm_struct *mm;
	struct thread_info thread_info;
	struct fs_struct *fs;
	struct files_struct *files;
	struct nameidata *nameidata;
	struct pid *thread_pid;
	struct hlist_node pid_links[4];
	kuid_t loginuid;
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	struct css_set *cgroups;
	u64 start_boottime;
	void *stack;
	char comm[16];
};

struct proc_inode {
	struct pid *pid;
	struct inode vfs_inode;
};

struct module {
	char name[56];
};

struct kern_ipc_perm {
	int id;
	kuid_t uid;
	u16 mode;
};

struct sockaddr {
	u16 sa_family;
};

struct in_addr {
	u32 s_addr;
};

struct sockaddr_in {
	u16 sin_family;
	u16 sin_port;
	struct in_addr sin_addr;
};

struct in6_addr {
	union {
		u8 u6_addr8[16];
		u32 u6_addr32[4];
	} in6_u;
};

struct sockaddr_in6 {
	u16 sin6_family;
	u16 sin6_port;
	struct in6_addr sin6_addr;
};

struct sockaddr_un {
	u16 sun_family;
	char sun_path[108];
};

struct sock_common {
	u16 skc_family;
	u8 skc_state;
	u32 skc_daddr;
	u32 skc_rcv_saddr;
	u16 skc_dport;
	u16 skc_num;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};

struct sock {
	struct sock_common __sk_common;
	u16 sk_type;
	u16 sk_protocol;
	u32 sk_ack_backlog;
	u32 sk_max_ack_backlog;
};

struct net_device {
	char name[16];
};

struct sk_buff {
	u32 len;
	u16 protocol;
	u16 network_header;
	u32 tail;
	u8 *head;
};

struct bpf_map {
	enum bpf_map_type map_type;
	u32 key_size;
	u32 value_size;
	u32 max_entries;
	char name[16];
};

struct bpf_prog_aux {
	char name[16];
};

struct bpf_prog {
	enum bpf_prog_type type;
	u32 len;
	struct bpf_prog_aux *aux;
};

struct perf_event_attr {
	u32 type;
	u64 config;
	u64 kprobe_func;
	u64 probe_offset;
};

struct perf_event {
	struct perf_event_attr attr;
};

struct socket {
	short type;
	struct sock *sk;
};

struct unix_address {
	int len;
	struct sockaddr_un name[];
};

struct unix_sock {
	struct sock sk;
	struct unix_address *addr;
	struct path path;
	struct sock *peer;
};

struct msghdr {
	void *msg_name;
	int msg_namelen;
	unsigned int msg_flags;
};

struct bpf_iter_meta;

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

struct pt_regs { /* x86-64 */
	unsigned long bp;
	unsigned long bx;
	unsigned long ax;
	unsigned long sp;
	unsigned long cx;
	unsigned long r10;
	unsigned long r9;
	unsigned long r8;
	unsigned long dx;
	unsigned long si;
	unsigned long di;
	unsigned long orig_ax;
};

struct seqcount {
	unsigned int sequence;
};

struct iattr {
	unsigned int ia_valid;
	unsigned short ia_mode;
	kuid_t ia_uid;
	kgid_t ia_gid;
};

#pragma clang attribute pop

#endif
