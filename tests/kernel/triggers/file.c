/* SPDX-License-Identifier: Apache-2.0 */
/* Acts on files and their attributes. Part of the trigger. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <linux/fscrypt.h>
#include <linux/fsverity.h>
#include <linux/io_uring.h>
#include <linux/magic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <utime.h>

#include "trigger.h"

/* Younger than the C library's headers. */
#define NR_FCHMODAT2 452
#define NR_SETXATTRAT 463
#define NR_REMOVEXATTRAT 466
#define NR_FILE_SETATTR 469
#define URING_FTRUNCATE 55
#define IOC_EXT4_MOVE_EXT _IOWR('f', 15, struct move_extent)
#define IOC_EXT4_SWAP_BOOT _IO('f', 17)

struct move_extent {
	__u32 reserved, donor;
	__u64 from, to, blocks, moved;
};
struct xattr_arguments {
	__u64 value;
	__u32 size, flags;
};
struct file_attributes {
	__u64 xflags;
	__u32 extsize, nextents, projid, cowextsize;
};

#define PAGE 4096

static const struct timespec long_ago[2] = { { .tv_sec = 1000000000 }, { .tv_sec = 1000000000 } };

/* ---- the 32-bit table, by `int $0x80`; the sixth argument, in ebp, is 0 ---- */
static long call32(long number, long a, long b, long c, long d, long e)
{
	long result;

	asm volatile("movq %%rbp, %%r12\n\txorl %%ebp, %%ebp\n\tint $0x80\n\tmovq %%r12, %%rbp"
		     : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory", "r8", "r9", "r10", "r11", "r12");
	if ((int)result < 0 && (int)result >= -4095) {
		errno = -(int)result;
		return -1;
	}
	return (int)result;
}

/* Memory whose address fits into 32 bits, with a copy of `from` where there is one. */
static long low(const void *from, size_t size)
{
	char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);

	if (page == MAP_FAILED || size > PAGE)
		wrong("mmap");
	if (from)
		memcpy(page, from, size);
	return (long)page;
}

static long low_text(const char *text) { return low(text, strlen(text) + 1); }

/* call32 NAME FILE [OTHER]: a call of the 32-bit table on a name, or two */
static int do_call32(void)
{
	static const struct {
		const char *name;
		int number;
		long second, third;
	} calls[] = {
		{ "open", 5, O_WRONLY, 0 },
		{ "creat", 8, 0644, 0 },
		{ "unlink", 10, 0, 0 },
		{ "mknod", 14, S_IFIFO | 0644, 0 },
		{ "chmod", 15, 0600, 0 },
		{ "lchown16", 16, 12, 12 },
		{ "utime", 30, 0, 0 },
		{ "mkdir", 39, 0755, 0 },
		{ "rmdir", 40, 0, 0 },
		{ "truncate", 92, 0, 0 },
		{ "chown16", 182, 12, 12 },
		{ "truncate64", 193, 0, 0 },
		{ "chown", 212, 12, 12 },
		{ "utimes", 271, 0, 0 },
		{ "link", 9, -1, 0 },
		{ "rename", 38, -1, 0 },
		{ "symlink", 83, -1, 0 },
	};
	const char *name = arg(0);

	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if (!strcmp(calls[i].name, name))
			return report(call32(calls[i].number, low_text(arg(1)), calls[i].second == -1 ? low_text(arg(2)) : calls[i].second, calls[i].third, 0, 0));
	if (!strcmp(name, "setxattr"))
		return report(call32(226, low_text(arg(1)), low_text("trusted.trigger"), low_text("1"), 1, 0));
	if (!strcmp(name, "removexattr"))
		return report(call32(235, low_text(arg(1)), low_text("trusted.trigger"), 0, 0, 0));
	if (!strcmp(name, "utimensat"))
		return report(call32(320, AT_FDCWD, low_text(arg(1)), 0, 0, 0));
	errno = EINVAL;
	wrong(name);
	return EXIT_WRONG;
}

/* ---- attributes by name ---- */
static int do_utimens_set(void) { return report(utimensat(AT_FDCWD, arg(0), long_ago, 0)); }
static int do_utimens_atime(void)
{
	return report(utimensat(AT_FDCWD, arg(0), (struct timespec[2]){ { .tv_nsec = UTIME_NOW }, { .tv_nsec = UTIME_OMIT } }, 0));
}
static int do_lutimens(void) { return report(utimensat(AT_FDCWD, arg(0), long_ago, AT_SYMLINK_NOFOLLOW)); }
static int do_utime(void) { return report(syscall(SYS_utime, arg(0), &(struct utimbuf){ 1, 1 })); }
static int do_utimes(void) { return report(syscall(SYS_utimes, arg(0), NULL)); }
static int do_futimesat(void) { return report(syscall(SYS_futimesat, AT_FDCWD, arg(0), NULL)); }
static int do_lsetxattr(void) { return report(lsetxattr(arg(0), opt(1, "trusted.trigger"), "1", 1, 0)); }
static int do_lremovexattr(void) { return report(lremovexattr(arg(0), opt(1, "trusted.trigger"))); }
static int do_setxattrat(void)
{
	struct xattr_arguments value = { .value = (unsigned long)"1", .size = 1 };

	return report(syscall(NR_SETXATTRAT, AT_FDCWD, arg(0), 0, opt(1, "trusted.trigger"), &value, sizeof(value)));
}
static int do_removexattrat(void) { return report(syscall(NR_REMOVEXATTRAT, AT_FDCWD, arg(0), 0, opt(1, "trusted.trigger"))); }

static int uring_result(int result)
{
	errno = result < 0 ? -result : 0;
	return report(result < 0 ? -1 : 0);
}
static int do_setxattr_uring(void)
{
	struct io_uring_sqe sqe = { .opcode = IORING_OP_SETXATTR, .addr = (unsigned long)"trusted.trigger", .addr2 = (unsigned long)"1", .len = 1 };

	sqe.addr3 = (unsigned long)arg(0);
	return uring_result(uring_request(&sqe));
}

/* What setfacl(1) stores: version 2, then tag, permissions, id of each entry. */
struct acl {
	__u32 version;
	struct {
		__u16 tag, perm;
		__u32 id;
	} entries[5];
};
static const struct acl acl = { 2, { { 1, 6, -1 }, { 2, 6, 12 }, { 4, 4, -1 }, { 16, 6, -1 }, { 32, 4, -1 } } };

/* setfacl FILE access|default, unsetfacl FILE access|default */
static const char *acl_name(void) { return strcmp(opt(1, "access"), "default") ? "system.posix_acl_access" : "system.posix_acl_default"; }
static int do_setfacl(void) { return report(setxattr(arg(0), acl_name(), &acl, sizeof(acl), 0)); }
static int do_unsetfacl(void) { return report(removexattr(arg(0), acl_name())); }
static int do_file_setattr(void)
{
	struct file_attributes attributes = { .xflags = FS_XFLAG_NODUMP };

	return report(syscall(NR_FILE_SETATTR, AT_FDCWD, arg(0), &attributes, sizeof(attributes), 0));
}
static int do_fchmodat2(void) { return report(syscall(NR_FCHMODAT2, AT_FDCWD, arg(0), 0600, AT_SYMLINK_NOFOLLOW)); }
/* fchown-empty FILE: by a descriptor that names the file and no more */
static int do_fchown_empty(void) { return report(fchownat(need_fd(open(arg(0), O_PATH), arg(0)), "", 12, 12, AT_EMPTY_PATH)); }

/* ---- names by io_uring ---- */
static int two_names(int operation)
{
	struct io_uring_sqe sqe = { .opcode = operation, .fd = AT_FDCWD, .addr = (unsigned long)arg(0), .addr2 = (unsigned long)arg(1) };

	sqe.len = AT_FDCWD;
	return uring_result(uring_request(&sqe));
}
static int do_rename_uring(void) { return two_names(IORING_OP_RENAMEAT); }
static int do_link_uring(void) { return two_names(IORING_OP_LINKAT); }
static int do_symlink_uring(void)
{
	struct io_uring_sqe sqe = { .opcode = IORING_OP_SYMLINKAT, .fd = AT_FDCWD, .addr = (unsigned long)arg(0), .addr2 = (unsigned long)arg(1) };

	return uring_result(uring_request(&sqe));
}
static int do_unlink_uring(void)
{
	struct io_uring_sqe sqe = { .opcode = IORING_OP_UNLINKAT, .fd = AT_FDCWD, .addr = (unsigned long)arg(0) };

	return uring_result(uring_request(&sqe));
}
static int do_mkdir_uring(void)
{
	struct io_uring_sqe sqe = { .opcode = IORING_OP_MKDIRAT, .fd = AT_FDCWD, .addr = (unsigned long)arg(0), .len = 0755 };

	return uring_result(uring_request(&sqe));
}

/* ---- by descriptor ---- */
static char byte[] = "x";
static void *mapped;

static void map_it(int fd)
{
	mapped = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	if (mapped == MAP_FAILED)
		wrong("mmap");
}

static int filled_pipe(void)
{
	int ends[2];

	if (pipe(ends) || write(ends[1], byte, 1) != 1)
		wrong("pipe");
	return ends[0];
}

/* An open file without a name, with one byte in it. */
static int other_file(void)
{
	int fd = need_fd(memfd_create("other", MFD_CLOEXEC), "memfd_create");

	if (write(fd, byte, 1) != 1)
		wrong("write");
	lseek(fd, 0, SEEK_SET);
	return fd;
}

static long fd_read(int fd) { return read(fd, &(char){ 0 }, 1); }
static long fd_pread(int fd) { return pread(fd, &(char){ 0 }, 1, 0); }
static long fd_write(int fd) { return write(fd, byte, 1); }
static long fd_pwrite(int fd) { return pwrite(fd, byte, 1, 0); }
static long fd_writev(int fd) { return writev(fd, &(struct iovec){ byte, 1 }, 1); }
static long fd_pwritev(int fd) { return pwritev(fd, &(struct iovec){ byte, 1 }, 1, 0); }
static long fd_pwritev2(int fd) { return pwritev2(fd, &(struct iovec){ byte, 1 }, 1, 0, RWF_APPEND); }
static long fd_write32(int fd) { return call32(4, fd, low(byte, 1), 1, 0, 0); }
static long fd_ftruncate(int fd) { return ftruncate(fd, 0); }
static long fd_ftruncate32(int fd) { return call32(93, fd, 0, 0, 0, 0); }
static long fd_fallocate(int fd) { return fallocate(fd, 0, 0, PAGE); }
static long fd_fallocate_keep(int fd) { return fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, PAGE); }
static long fd_punch_hole(int fd) { return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE); }
static long fd_zero_range(int fd) { return fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, PAGE); }
static long fd_collapse_range(int fd) { return fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, PAGE); }
static long fd_insert_range(int fd) { return fallocate(fd, FALLOC_FL_INSERT_RANGE, 0, PAGE); }
static long fd_fallocate32(int fd) { return call32(324, fd, 0, 0, 0, PAGE); }
static long fd_fchmod(int fd) { return fchmod(fd, 0600); }
static long fd_fchown(int fd) { return fchown(fd, 12, 12); }
static long fd_fsetxattr(int fd) { return fsetxattr(fd, "trusted.trigger", "1", 1, 0); }
static long fd_fremovexattr(int fd) { return fremovexattr(fd, "trusted.trigger"); }
static long fd_fsetfacl(int fd) { return fsetxattr(fd, "system.posix_acl_access", &acl, sizeof(acl), 0); }
static long fd_futimens(int fd) { return futimens(fd, NULL); }
static long fd_futimens_set(int fd) { return futimens(fd, long_ago); }
static long fd_mmap_write(int fd) { return mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0; }
static long fd_mmap_validate(int fd) { return mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED_VALIDATE, fd, 0) == MAP_FAILED ? -1 : 0; }
static long fd_mmap_read(int fd) { return mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0; }
static long fd_mmap_private(int fd) { return mmap(NULL, PAGE, PROT_WRITE, MAP_PRIVATE, fd, 0) == MAP_FAILED ? -1 : 0; }
static long fd_mmap_none(int fd) { return mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE, fd, 0) == MAP_FAILED ? -1 : 0; }
static long fd_mprotect(int fd) { return mprotect(mapped, PAGE, PROT_READ | (fd >= 0 ? PROT_WRITE : 0)); }
static long fd_madvise_remove(int fd) { return madvise(mapped, PAGE, fd >= 0 ? MADV_REMOVE : MADV_NORMAL); }
static long fd_sendfile(int fd) { return sendfile(need_fd(memfd_create("to", 0), "memfd_create"), fd, NULL, 1); }
static long fd_sendfile_into(int fd) { return sendfile(fd, other_file(), NULL, 1); }
static long fd_splice(int fd) { return splice(filled_pipe(), NULL, fd, NULL, 1, 0); }
static long fd_copy_range(int fd) { return copy_file_range(fd, &(loff_t){ 0 }, fd, &(loff_t){ PAGE }, 1, 0); }
static long fd_clone(int fd) { return ioctl(fd, FICLONE, fd); }
static long fd_clone_range(int fd) { return ioctl(fd, FICLONERANGE, &(struct file_clone_range){ .src_fd = fd, .src_length = PAGE, .dest_offset = PAGE }); }

static long fd_aio_write(int fd)
{
	struct iocb block = { .aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = fd, .aio_buf = (unsigned long)byte, .aio_nbytes = 1 };
	struct io_event event;
	aio_context_t context = 0;

	if (syscall(SYS_io_setup, 1, &context))
		wrong("io_setup");
	if (syscall(SYS_io_submit, context, 1, &(struct iocb *){ &block }) < 0)
		return -1;
	if (syscall(SYS_io_getevents, context, 1, 1, &event, NULL) != 1)
		wrong("io_getevents");
	errno = event.res < 0 ? -event.res : 0;
	return event.res < 0 ? -1 : 0;
}

static long fd_uring(const struct io_uring_sqe *request, const struct iovec *fixed)
{
	int result = uring_request_with(request, fixed);

	errno = result < 0 ? -result : 0;
	return result < 0 ? -1 : 0;
}
static long fd_uring_write(int fd)
{
	return fd_uring(&(struct io_uring_sqe){ .opcode = IORING_OP_WRITE, .fd = fd, .addr = (unsigned long)byte, .len = 1 }, NULL);
}
static long fd_uring_writev(int fd)
{
	struct iovec vector = { byte, 1 };

	return fd_uring(&(struct io_uring_sqe){ .opcode = IORING_OP_WRITEV, .fd = fd, .addr = (unsigned long)&vector, .len = 1 }, NULL);
}
static long fd_uring_write_fixed(int fd)
{
	return fd_uring(&(struct io_uring_sqe){ .opcode = IORING_OP_WRITE_FIXED, .fd = fd, .addr = (unsigned long)byte, .len = 1 }, &(struct iovec){ byte, 1 });
}
static long fd_uring_fallocate(int fd)
{
	return fd_uring(&(struct io_uring_sqe){ .opcode = IORING_OP_FALLOCATE, .fd = fd, .addr = PAGE }, NULL);
}
static long fd_uring_splice(int fd)
{
	struct io_uring_sqe sqe = { .opcode = IORING_OP_SPLICE, .fd = fd, .off = -1, .splice_off_in = -1, .len = 1 };

	sqe.splice_fd_in = filled_pipe();
	return fd_uring(&sqe, NULL);
}
static long fd_uring_ftruncate(int fd) { return fd_uring(&(struct io_uring_sqe){ .opcode = URING_FTRUNCATE, .fd = fd }, NULL); }
static long fd_uring_fsetxattr(int fd)
{
	struct io_uring_sqe sqe = { .opcode = IORING_OP_FSETXATTR, .fd = fd, .addr = (unsigned long)"trusted.trigger", .len = 1 };

	sqe.addr2 = (unsigned long)"1";
	return fd_uring(&sqe, NULL);
}

/* The flags that it has, and no dump of it. */
static int more_flags(int fd)
{
	int flags = 0;

	if (ioctl(fd, FS_IOC_GETFLAGS, &flags))
		wrong("FS_IOC_GETFLAGS");
	return flags | FS_NODUMP_FL;
}
static long fd_chattr(int fd) { return ioctl(fd, FS_IOC_SETFLAGS, &(int){ more_flags(fd) }); }
static long fd_chattr32(int fd) { return call32(54, fd, FS_IOC32_SETFLAGS, low(&(int){ more_flags(fd) }, sizeof(int)), 0, 0); }
static long fd_fssetxattr(int fd) { return ioctl(fd, FS_IOC_FSSETXATTR, &(struct fsxattr){ .fsx_xflags = FS_XFLAG_NODUMP }); }
static long fd_fssetxattr32(int fd)
{
	return call32(54, fd, FS_IOC_FSSETXATTR, low(&(struct fsxattr){ .fsx_xflags = FS_XFLAG_NODUMP }, sizeof(struct fsxattr)), 0, 0);
}
static long fd_setversion(int fd) { return ioctl(fd, FS_IOC_SETVERSION, &(long){ 7 }); }
static long fd_getflags(int fd) { return ioctl(fd, FS_IOC_GETFLAGS, &(long){ 0 }); }
static long fd_verity(int fd)
{
	struct fsverity_enable_arg how = { .version = 1, .hash_algorithm = FS_VERITY_HASH_ALG_SHA256, .block_size = PAGE };

	return ioctl(fd, FS_IOC_ENABLE_VERITY, &how);
}
static long fd_encrypt(int fd)
{
	struct fscrypt_policy_v1 policy = {
		.contents_encryption_mode = FSCRYPT_MODE_AES_256_XTS,
		.filenames_encryption_mode = FSCRYPT_MODE_AES_256_CTS,
	};

	return ioctl(fd, FS_IOC_SET_ENCRYPTION_POLICY, &policy);
}
static long fd_swap_boot(int fd) { return ioctl(fd, IOC_EXT4_SWAP_BOOT); }
/* Its blocks for those of a new file beside it. */
static long fd_move_extents(int fd)
{
	static char block[PAGE];
	char path[64];
	ssize_t length;
	char name[PAGE];
	int donor;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	length = readlink(path, name, sizeof(name) - 8);
	if (length < 0)
		wrong(path);
	strcpy(name + length, ".donor");
	donor = need_fd(open(name, O_RDWR | O_CREAT | O_TRUNC, 0644), name);
	if (write(donor, block, PAGE) != PAGE || fsync(donor))
		wrong(name);
	return ioctl(fd, IOC_EXT4_MOVE_EXT, &(struct move_extent){ .donor = donor, .blocks = 1 });
}

/* fd OPENFLAGS ACT FILE: opens FILE (so before or under the policy) and prepares, waits for a byte on standard input, then acts on the
 * descriptor
 */
static int do_fd(void)
{
	static const struct {
		const char *name;
		long (*act)(int fd);
		void (*prepare)(int fd);
	} all[] = {
		{ "read", fd_read, NULL },
		{ "pread", fd_pread, NULL },
		{ "write", fd_write, NULL },
		{ "pwrite", fd_pwrite, NULL },
		{ "writev", fd_writev, NULL },
		{ "pwritev", fd_pwritev, NULL },
		{ "pwritev2", fd_pwritev2, NULL },
		{ "write32", fd_write32, NULL },
		{ "ftruncate", fd_ftruncate, NULL },
		{ "ftruncate32", fd_ftruncate32, NULL },
		{ "fallocate", fd_fallocate, NULL },
		{ "fallocate-keep", fd_fallocate_keep, NULL },
		{ "punch-hole", fd_punch_hole, NULL },
		{ "zero-range", fd_zero_range, NULL },
		{ "collapse-range", fd_collapse_range, NULL },
		{ "insert-range", fd_insert_range, NULL },
		{ "fallocate32", fd_fallocate32, NULL },
		{ "fchmod", fd_fchmod, NULL },
		{ "fchown", fd_fchown, NULL },
		{ "fsetxattr", fd_fsetxattr, NULL },
		{ "fremovexattr", fd_fremovexattr, NULL },
		{ "fsetfacl", fd_fsetfacl, NULL },
		{ "futimens", fd_futimens, NULL },
		{ "futimens-set", fd_futimens_set, NULL },
		{ "mmap-write", fd_mmap_write, NULL },
		{ "mmap-validate", fd_mmap_validate, NULL },
		{ "mmap-read", fd_mmap_read, NULL },
		{ "mmap-private", fd_mmap_private, NULL },
		{ "mmap-none", fd_mmap_none, NULL },
		{ "mprotect-write", fd_mprotect, map_it },
		{ "madvise-remove", fd_madvise_remove, map_it },
		{ "sendfile", fd_sendfile, NULL },
		{ "sendfile-into", fd_sendfile_into, NULL },
		{ "splice", fd_splice, NULL },
		{ "copy-range", fd_copy_range, NULL },
		{ "clone", fd_clone, NULL },
		{ "clone-range", fd_clone_range, NULL },
		{ "aio-write", fd_aio_write, NULL },
		{ "uring-write", fd_uring_write, NULL },
		{ "uring-writev", fd_uring_writev, NULL },
		{ "uring-write-fixed", fd_uring_write_fixed, NULL },
		{ "uring-fallocate", fd_uring_fallocate, NULL },
		{ "uring-splice", fd_uring_splice, NULL },
		{ "uring-ftruncate", fd_uring_ftruncate, NULL },
		{ "uring-fsetxattr", fd_uring_fsetxattr, NULL },
		{ "chattr", fd_chattr, NULL },
		{ "chattr32", fd_chattr32, NULL },
		{ "fssetxattr", fd_fssetxattr, NULL },
		{ "fssetxattr32", fd_fssetxattr32, NULL },
		{ "setversion", fd_setversion, NULL },
		{ "getflags", fd_getflags, NULL },
		{ "verity", fd_verity, NULL },
		{ "encrypt", fd_encrypt, NULL },
		{ "swap-boot", fd_swap_boot, NULL },
		{ "move-extents", fd_move_extents, NULL },
	};
	int fd = need_fd(open(arg(2), open_flags(arg(0))), arg(2));
	size_t i = 0;
	char go;

	while (i < sizeof(all) / sizeof(all[0]) && strcmp(all[i].name, arg(1)))
		i++;
	if (i == sizeof(all) / sizeof(all[0])) {
		errno = EINVAL;
		wrong(arg(1));
	}
	if (all[i].prepare)
		all[i].prepare(fd);
	puts("ready");
	fflush(stdout);
	if (read(0, &go, 1) < 0)
		wrong("standard input");
	return report(all[i].act(fd));
}

/* ---- places ---- */
/* ext4 DIRECTORY: a new ext4 file system there, unless there is one */
static int do_ext4(void)
{
	char command[PAGE];
	struct statfs found;

	if (!statfs(arg(0), &found) && found.f_type == EXT4_SUPER_MAGIC)
		return report(0);
	snprintf(command, sizeof(command), "mkdir -p %s && truncate -s 16M %s.img && mke2fs -q -F -t ext4 -b 4096 -O verity,encrypt,^metadata_csum %s.img && mount -o loop %s.img %s",
		 arg(0), arg(0), arg(0), arg(0), arg(0));
	if (system(command))
		wrong(command);
	return report(0);
}

/* fresh FILE: a new file of two pages in place of whatever was there */
static int do_fresh(void)
{
	static char pages[2 * PAGE];
	int fd;

	if (unlink(arg(0)) && errno != ENOENT)
		wrong(arg(0));
	fd = need_fd(open(arg(0), O_WRONLY | O_CREAT | O_EXCL, 0755), arg(0));
	if (write(fd, pages, sizeof(pages)) != sizeof(pages) || fsync(fd))
		wrong(arg(0));
	return report(0);
}
/* fresh-directory DIRECTORY: the same, empty */
static int do_fresh_directory(void)
{
	if (rmdir(arg(0)) && errno != ENOENT)
		wrong(arg(0));
	return report(mkdir(arg(0), 0755));
}

static void overlay(const char *lower, const char *base, const char *to)
{
	char options[3 * PAGE], upper[PAGE], work[PAGE];

	snprintf(upper, sizeof(upper), "%s/upper", base);
	snprintf(work, sizeof(work), "%s/work", base);
	if ((mkdir(upper, 0755) || mkdir(work, 0755)) && errno != EEXIST)
		wrong(base);
	snprintf(options, sizeof(options), "lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work);
	if (mount("overlay", to, "overlay", 0, options))
		wrong("overlay mount");
}
/* via-upper LOWER TO BASE ACT...: an overlay on TO in a private mount namespace, whose upper layer is on a file system of its own at BASE */
static int do_via_upper(void)
{
	private_mounts();
	if (mount("trigger", arg(2), "tmpfs", 0, "size=8m"))
		wrong("mount");
	overlay(arg(0), arg(2), arg(1));
	return dispatch(args + 3);
}
/* via-hidden-upper LOWER TO BASE ACT...: the same, and nobody sees BASE any more: so is a container */
static int do_via_hidden_upper(void)
{
	private_mounts();
	if (mount("trigger", arg(2), "tmpfs", 0, "size=8m"))
		wrong("mount");
	overlay(arg(0), arg(2), arg(1));
	if (umount2(arg(2), MNT_DETACH))
		wrong("umount");
	return dispatch(args + 3);
}
/* via-layer UPPER TO ACT...: the same with the folder UPPER, on whatever it is, as upper layer and nothing below */
static int do_via_layer(void)
{
	char options[3 * PAGE], work[PAGE], lower[PAGE];

	private_mounts();
	snprintf(work, sizeof(work), "%s.work", arg(0));
	snprintf(lower, sizeof(lower), "%s.lower", arg(0));
	if ((mkdir(work, 0755) || mkdir(lower, 0755)) && errno != EEXIST)
		wrong(arg(0));
	snprintf(options, sizeof(options), "lowerdir=%s,upperdir=%s,workdir=%s", lower, arg(0), work);
	if (mount("overlay", arg(1), "overlay", 0, options))
		wrong("overlay mount");
	return dispatch(args + 2);
}

/* copied-up FILE ACT...: FILE, in an overlay, is copied to the upper layer first */
static int do_copied_up(void)
{
	if (chmod(arg(0), 0755))
		wrong(arg(0));
	return dispatch(args + 1);
}

const struct act file_acts[] = {
	{ "fd", do_fd },
	{ "call32", do_call32 },
	{ "utimens-set", do_utimens_set },
	{ "utimens-atime", do_utimens_atime },
	{ "lutimens", do_lutimens },
	{ "utime", do_utime },
	{ "utimes", do_utimes },
	{ "futimesat", do_futimesat },
	{ "lsetxattr", do_lsetxattr },
	{ "lremovexattr", do_lremovexattr },
	{ "setxattrat", do_setxattrat },
	{ "removexattrat", do_removexattrat },
	{ "setxattr-uring", do_setxattr_uring },
	{ "setfacl", do_setfacl },
	{ "unsetfacl", do_unsetfacl },
	{ "file-setattr", do_file_setattr },
	{ "fchmodat2", do_fchmodat2 },
	{ "fchown-empty", do_fchown_empty },
	{ "rename-uring", do_rename_uring },
	{ "link-uring", do_link_uring },
	{ "symlink-uring", do_symlink_uring },
	{ "unlink-uring", do_unlink_uring },
	{ "mkdir-uring", do_mkdir_uring },
	{ "ext4", do_ext4 },
	{ "fresh", do_fresh },
	{ "fresh-directory", do_fresh_directory },
	{ "via-upper", do_via_upper },
	{ "via-hidden-upper", do_via_hidden_upper },
	{ "via-layer", do_via_layer },
	{ "copied-up", do_copied_up },
	{ NULL, NULL },
};
