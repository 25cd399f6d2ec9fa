/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every number and struct that crosses the kernel border. Python's side (src/bpfence/abi.py) is generated from
 * this file by tools/gen_abi.py; BPFENCE_ABI_HASH (sha256 of this text, first 8 bytes) is compared at load.
 *
 * Only plain enums, #define NAME INTEGER, and structs of fixed-width members: the generator reads nothing else.
 */
#ifndef BPFENCE_ABI_H
#define BPFENCE_ABI_H

#define ABI_VERSION 2
#define ABI_PATH_MAX 4096
#define ABI_ARGS_MAX 1024
#define ABI_ARGS_SHORT 64
#define ABI_EXE_SHORT 256
#define ABI_CGROUP_MAX 512
#define ABI_COMM_LEN 16
#define ABI_NUM_SLOTS 256
#define ABI_NUM_WORDS 4              /* of 64 bits: a bit for each numeric slot */
#define ABI_NUM_WIDE 128             /* numeric slots from this one on take 8 bytes in a record, those before it 4 */
#define ABI_NUM_IN_HEADER 5          /* numeric slots before this one are members of struct event_header, and stand nowhere else in a record */
#define ABI_STR_SLOTS 64
#define ABI_MAX_DIMS 64
#define ABI_MAX_GROUPS 8
#define ABI_MAX_EVENTS 256
#define ABI_EVENT_WORDS 4            /* of 64 bits: a bit for each event */
#define ABI_LINEAGE_WORDS 2

/* Events: the bit number in process_record.concern and in struct concern, the index of image_header.column, event_header.event.
 *   1 .. EV_DONE - 1           about to be done: a rule can deny them
 *   EV_DONE .. EV_SENSOR - 1   seen when they are done (process.exit, which is older than this order, is too): none can be denied
 *   EV_SENSOR ..               one for each kind of generic sensor; which sensor it was says NUM_HOOK. Of EV_SENSOR_LSM alone a rule can deny them
 */
#define EV_DONE 128
#define EV_SENSOR 192
enum event_id {
	EV_NONE = 0,
	EV_PROCESS_EXEC = 1,
	EV_PROCESS_FORK = 2,
	EV_PROCESS_EXIT = 3,
	EV_PROCESS_SIGNAL = 4,
	EV_PROCESS_PTRACE = 5,
	EV_PROCESS_SETUID = 6,
	EV_PROCESS_SETGID = 7,
	EV_PROCESS_CAPABLE = 8,
	EV_FILE_OPEN = 9,
	EV_FILE_CREATE = 10,
	EV_FILE_UNLINK = 11,
	EV_FILE_RENAME = 12,
	EV_FILE_LINK = 13,
	EV_FILE_SYMLINK = 14,
	EV_FILE_MKDIR = 15,
	EV_FILE_RMDIR = 16,
	EV_FILE_CHMOD = 17,
	EV_FILE_CHOWN = 18,
	EV_FILE_TRUNCATE = 19,
	EV_FILE_SETXATTR = 20,
	EV_FILE_MMAP = 21,
	EV_FILE_MPROTECT = 22,
	EV_FILE_PERMISSION = 23,
	EV_NET_CREATE = 24,
	EV_NET_BIND = 25,
	EV_NET_LISTEN = 26,
	EV_NET_CONNECT = 27,
	EV_NET_ACCEPT = 28,
	EV_NET_SEND = 29,
	EV_IPC_ACCESS = 30,
	EV_IPC_MSGSND = 31,
	EV_IPC_SHMAT = 32,
	EV_KERNEL_MODULE = 33,
	EV_KERNEL_BPF = 34,
	EV_KERNEL_MOUNT = 35,
	EV_KERNEL_UMOUNT = 36,
	EV_KERNEL_PIVOT_ROOT = 37,
	EV_KERNEL_PERF = 38,
	EV_KERNEL_USERNS = 39,
	EV_KERNEL_IO_URING = 40,
	EV_KERNEL_SETNS = 41,
	EV_KERNEL_KEXEC = 42,
	EV_FILE_SETATTR = 43,
	EV_PROCESS_MEMORY = 44,
	EV_PROCESS_EXECUTED = 128,
	EV_PROCESS_EXEC_FAILED = 129,
	EV_FILE_OPEN_FAILED = 130,
	EV_FILE_DUP = 131,
	EV_PROCESS_TRACE = 132,
	EV_PROCESS_UNSHARE = 133,
	EV_PROCESS_SETNS = 134,
	EV_PROCESS_PRCTL = 135,
	EV_PROCESS_CAPSET = 136,
	EV_PROCESS_CHROOT = 137,
	EV_PROCESS_CHDIR = 138,
	EV_PROCESS_SETSID = 139,
	EV_KERNEL_IO_URING_SETUP = 140,
	EV_KERNEL_MEMFD = 141,
	EV_KERNEL_USERFAULTFD = 142,
	EV_KERNEL_FSCONFIG = 143,
	EV_NET_RECV = 144,
	EV_PROCESS_SETID_FAILED = 145,
	EV_SENSOR_KPROBE = 192,
	EV_SENSOR_KRETPROBE = 193,   /* told when the function returns, with what it was given */
	EV_SENSOR_TRACEPOINT = 194,
	EV_SENSOR_RAW_TRACEPOINT = 195,
	EV_SENSOR_LSM = 196,
	EV_SENSOR_UPROBE = 197,
	EV_SENSOR_URETPROBE = 198,
	EV_SENSOR_USDT = 199,
};

/* Numeric slots of an event: 64 bits each. One is present when its bit in the present words is set. */
enum num_slot {
	/* Of the acting process: members of struct event_header. */
	NUM_PROCESS_PID = 0,
	NUM_PARENT_PID = 1,
	NUM_PROCESS_UID = 2,        /* effective uid, in the initial user namespace */
	NUM_PROCESS_GID = 3,        /* effective gid */
	NUM_WORKLOAD = 4,           /* class of the container that its cgroup is in, see map `workloads` */
	/* Of the acting process; in records where the image has IMAGE_DETAILS. */
	NUM_TTY = 5,                /* device number of the controlling terminal (major << 8 | minor), 0: none */
	NUM_SID = 6,
	NUM_PGID = 7,
	NUM_VPID = 8,               /* ids in the process's own pid namespace */
	NUM_VTID = 9,
	NUM_VPGID = 10,
	NUM_LOGINUID = 11,          /* audit user id, 0xffffffff: not set */
	NUM_EXE_FLAGS = 12,         /* bits: EXE_* */
	NUM_ENTERED = 13,           /* 1: it has come into its pid namespace from outside of its container, 0: not; where a diagram asks */
	NUM_CALL = 14,              /* number of the system call that the event belongs to; with CALL_* bits; absent: none */
	/* file.* */
	NUM_FILE_ACCESS = 15,       /* bits: ACCESS_* */
	NUM_FILE_FLAGS = 16,        /* open flags, O_* of the generic ABI */
	NUM_FILE_MODE = 17,         /* permission bits and type: of the file; for chmod, create, mkdir the new mode */
	NUM_FILE_UID = 18,          /* owner; for chown the new owner */
	NUM_FILE_GID = 19,
	NUM_FILE_DEV = 20,          /* major << 20 | minor, the kernel's own form */
	NUM_FILE_DELETED = 21,      /* 1: link count 0 */
	NUM_FILE_MEMFD = 22,        /* 1: created by memfd_create */
	NUM_FILE_MAP_SHARED = 23,   /* mmap: 1 if MAP_SHARED */
	NUM_NEW_DEV = 24,           /* rename: of the replaced file, 0 where none */
	/* net.* */
	NUM_NET_FAMILY = 25,        /* AF_* */
	NUM_NET_TYPE = 26,          /* SOCK_* */
	NUM_NET_PROTOCOL = 27,      /* IPPROTO_* */
	NUM_NET_PEER_PORT = 28,
	NUM_NET_LOCAL_PORT = 29,
	NUM_NET_CONNECTED = 30,     /* net.recv: 1 where the socket has a peer of its own */
	NUM_QUEUE_LENGTH = 31,      /* net.accept, when the call has returned: connections that wait to be accepted */
	NUM_QUEUE_MAX = 32,
	NUM_PAIR_0 = 33,            /* net.create of socketpair(2): the two descriptors */
	NUM_PAIR_1 = 34,
	NUM_FILE_PROC_PID = 35,     /* the process whose folder of procfs the file is in; read where a diagram asks, as NUM_ENTERED */
	NUM_FILE_SCRIPT = 36,       /* process.exec: 1 where the file begins with #! */
	/* process.*, ipc.*, kernel.* */
	NUM_TARGET_PID = 64,
	NUM_TARGET_UID = 65,
	NUM_SIGNAL = 66,
	NUM_CAPABILITY = 67,
	NUM_SET_UID = 68,           /* setuid: the new effective uid */
	NUM_SET_GID = 69,
	NUM_EXIT_CODE = 70,
	NUM_PTRACE_MODE = 71,
	NUM_IPC_UID = 72,           /* owner of the object */
	NUM_IPC_ID = 73,
	NUM_BPF_CMD = 74,
	NUM_NS_FLAGS = 75,          /* setns: CLONE_NEW* */
	NUM_IO_URING_OP = 76,       /* 1 override_creds, 2 sqpoll, 3 cmd */
	NUM_RING_PARAM_0 = 77,      /* kernel.io_uring_setup: the first RING_PARAMS members of struct io_uring_params */
	NUM_RING_PARAM_1 = 78,
	NUM_RING_PARAM_2 = 79,
	NUM_RING_PARAM_3 = 80,
	NUM_RING_PARAM_4 = 81,
	NUM_RING_PARAM_5 = 82,
	NUM_MODULE_REQUESTED = 83,  /* 1: the kernel requests it from user space */
	/* sensors */
	NUM_HOOK = 84,              /* number of the sensor */
	NUM_MAP_FLAGS = 85,         /* file.mmap: MAP_*, as they are given to the hook */
	NUM_NET_ADDRLEN = 86,       /* net.connect by connect(2): bytes of the address */
	NUM_TARGET_REGISTERED = 87, /* 1: the target is in a container of map `workloads`, 0: not; where a diagram asks */
	/* From here on 8 bytes in records. Of the acting process: */
	NUM_PROCESS_CAPS = 128,     /* effective capability set, bit n = capability n */
	NUM_CAPS_PERMITTED = 129,   /* this and the next six in records where the image has IMAGE_DETAILS */
	NUM_CAPS_INHERITABLE = 130,
	NUM_CAPS_BOUNDING = 131,
	NUM_EXE_INO = 132,
	NUM_EXE_CTIME = 133,        /* ns since 1970 */
	NUM_EXE_MTIME = 134,
	NUM_PARENT_START = 135,     /* ns since boot */
	NUM_CALL_ARG0 = 136,        /* arguments of NUM_CALL as the registers hold them */
	NUM_CALL_ARG1 = 137,
	NUM_CALL_ARG2 = 138,
	NUM_CALL_ARG3 = 139,
	NUM_CALL_ARG4 = 140,
	NUM_CALL_ARG5 = 141,
	NUM_RESULT = 142,           /* what it returned, as s64; absent: not known */
	NUM_FILE_INO = 143,
	NUM_NEW_INO = 144,          /* rename: of the replaced file, 0 where none */
	NUM_FILE_OBJECT = 145,      /* bit set: the `follow: object` sets that the file or one of its ancestors belongs to */
	NUM_NEW_OBJECT = 146,       /* same for the second path */
	NUM_HOW_MODE = 147,         /* file.open, file.open_failed: struct open_how of openat2(2), read from the caller's memory */
	NUM_HOW_RESOLVE = 148,
	NUM_NET_SIZE = 149,         /* net.send, net.recv: bytes that are to be sent, or that there is room for */
	NUM_CLONE_FLAGS = 150,
	NUM_MOUNT_FLAGS = 151,
	NUM_FILE_PROT = 152,        /* mmap, mprotect: PROT_* */
	NUM_DIRFD = 153,            /* descriptor that STR_FILE_TEXT is relative to, AT_FDCWD (-100, as s64) for the working directory */
	NUM_FORK_LIVE = 154,        /* fork: live tasks in the cgroup, the new one not counted */
	NUM_FORK_LIVE_1 = 155,      /* live tasks below the ancestor cgroup of level 1; then of 2 .. FORK_LEVELS */
	NUM_FORK_LIVE_2 = 156,
	NUM_FORK_LIVE_3 = 157,
	NUM_FORK_LIVE_4 = 158,
	NUM_FORK_LIVE_5 = 159,
	NUM_FORK_LIVE_6 = 160,
	NUM_FORK_LIVE_7 = 161,
	NUM_FORK_LIVE_8 = 162,
	NUM_SENSOR_0 = 163,         /* sensors: argument 0 to SENSOR_ARGS - 1 where it is a number, with the sign put in */
	NUM_SENSOR_1 = 164,
	NUM_SENSOR_2 = 165,
	NUM_SENSOR_3 = 166,
	NUM_SENSOR_4 = 167,
	NUM_SENSOR_RETURN = 168,    /* what the function of a sensor has returned, with the sign put in */
	/* Inode numbers of the acting task's namespaces; from NUM_NS_UTS on in the order of the bits of NUM_NS_HOST, the last of them. */
	NUM_NS_UTS = 169,
	NUM_NS_IPC = 170,
	NUM_NS_MNT = 171,
	NUM_NS_PID = 172,
	NUM_NS_PID_FOR_CHILDREN = 173,
	NUM_NS_NET = 174,
	NUM_NS_TIME = 175,
	NUM_NS_TIME_FOR_CHILDREN = 176,
	NUM_NS_CGROUP = 177,
	NUM_NS_USER = 178,
	NUM_NS_HOST = 179,          /* bit n: its namespace n is that of the first process of the host */
	/* What is other than when the task's program was executed, or the task first seen. */
	NUM_NS_CHANGED = 180,       /* bit n: its namespace n */
	NUM_CAPS_CHANGED = 181,     /* bits of its effective capabilities */
	NUM_CAPS_PERMITTED_CHANGED = 182,
	NUM_CAPS_INHERITABLE_CHANGED = 183,
	NUM_NET_STATE = 184,        /* TCP_* of a sensor's socket */
	NUM_COUNT_0 = 185,          /* of counter 0 to COUNTERS - 1 how many events it has counted within its window, where that is enough */
	NUM_COUNT_LAST = 200,
};

#define COUNTERS 16

#define FORK_LEVELS 8
#define NAMESPACES 10                /* NUM_NS_UTS .. NUM_NS_USER */
#define RING_PARAMS 6

#define CALL_COMPAT 0x80000000       /* in NUM_CALL: a number of the 32-bit table */
#define CALL_NUMBER_MASK 0x7fffffff
#define EXE_UPPER 1                 /* in the upper layer of an overlay */
#define EXE_LOWER 2                 /* in a lower layer only */
#define EXE_WRITABLE 4              /* by the user who runs it */
#define EXE_MEMFD 8

/* String slots. IP addresses are byte strings: 4 bytes (IPv4, also v4-mapped) or 16. */
enum str_slot {
	STR_PROCESS_EXE = 0,
	STR_PROCESS_ARGS = 1,       /* argv joined by one space */
	STR_PROCESS_NAME = 2,
	STR_PROCESS_CGROUP = 3,     /* cgroup v2 path, "/" is the root */
	STR_PARENT_EXE = 4,
	STR_PROCESS_CWD = 5,
	STR_FILE_PATH = 6,
	STR_FILE_NEW_PATH = 7,
	STR_FILE_FSTYPE = 8,
	STR_NET_PEER_IP = 9,
	STR_NET_LOCAL_IP = 10,
	STR_NET_UNIX_PATH = 11,     /* abstract names begin with '@' */
	STR_TARGET_EXE = 12,
	STR_MODULE_NAME = 13,
	STR_MOUNT_SOURCE = 14,
	STR_XATTR_NAME = 15,
	STR_PARENT_NAME = 16,       /* of the parent as it is now */
	STR_PARENT_ARGS = 17,       /* NUL-separated, as STR_PROCESS_ARGS */
	STR_FILE_TEXT = 18,         /* open: the name as the caller gave it, the kernel's copy */
	STR_FILE_BASE = 19,         /* path of the directory descriptor that it is relative to; absent: the working directory */
	STR_LINK_TARGET = 20,       /* symlink: the text of the link */
	STR_CALL_TEXT = 21,         /* a text argument of the call, read from the caller's memory when it has returned */
	STR_ANCESTORS = 22,         /* struct ancestor, the parent first; in records where the image has IMAGE_DETAILS */
	STR_CALL_TEXT_2 = 23,       /* the second text argument, of calls with two names; in such records, too, and there STR_CALL_TEXT is the first */
	STR_SENSOR_0 = 24,          /* sensors: argument 0 to SENSOR_ARGS - 1 where it is a text */
	STR_SENSOR_1 = 25,
	STR_SENSOR_2 = 26,
	STR_SENSOR_3 = 27,
	STR_SENSOR_4 = 28,
	STR_SENSOR_WHOLE_0 = 29,    /* sensors: argument 0 to SENSOR_ARGS - 1 where it is a structure: struct sensor_cred, struct sensor_user_ns */
	STR_SENSOR_WHOLE_1 = 30,
	STR_SENSOR_WHOLE_2 = 31,
	STR_SENSOR_WHOLE_3 = 32,
	STR_SENSOR_WHOLE_4 = 33,
	STR_PROCESS_ARGV = 34,      /* as STR_PROCESS_ARGS, and NUL stands for itself */
	STR_TARGET_CGROUP = 35,     /* as STR_PROCESS_CGROUP, of the target as it is now */
};

/* One process that the acting one descends from, as it is now. */
#define ABI_ANCESTORS_MAX 24
struct ancestor {
	__u64 exec_id;               /* 0: unknown */
	__u64 pid;
};

enum access_bits {
	ACCESS_READ = 1,
	ACCESS_WRITE = 2,
	ACCESS_EXEC = 4,
	ACCESS_APPEND = 8,
	ACCESS_TRUNCATE = 16,
	ACCESS_CREATE = 32,         /* O_CREAT */
	ACCESS_CREATED = 64,        /* the file was not there before */
};

enum action_id {
	ACTION_NONE = 0,
	ACTION_ALLOW = 1,
	ACTION_OBSERVE = 2,         /* written as an event, not as an alert */
	ACTION_AUDIT = 3,
	ACTION_DENY = 4,
	ACTION_KILL = 5,
};

/* ---- The image: one generation of tables, 1 MiB pages of 32-bit little-endian words, each the one value of an array map. ----
 * "ref" = absolute word offset in the image. Word 0.. is struct image_header.
 *
 * Classes. Every dimension maps an event to a class number: CLASS_UNCERTAIN, CLASS_NONE, 2, 3 ...
 *   CLASS_UNCERTAIN (0): the value could not be obtained completely. The compiler makes child 0 the join of the others.
 *   CLASS_NONE (1): absent, or no pattern matches.
 *   A boolean dimension (DIM_BITS): 1 false, 2 true.
 *
 * Diagram reference (32 bits): IMAGE_LEAF | verdict number, or the ref of a node.
 * Node: word 0 = dim | kind << 8 | count << 16 ... see NODE_*:
 *   NODE_DENSE:  word 0 = dim | NODE_DENSE << 8;   word 1 = count; then count children, indexed by class.
 *   NODE_SPARSE: word 0 = dim | NODE_SPARSE << 8;  word 1 = count; word 2 = default child; then count pairs
 *                (class, child), classes ascending. count <= 65535.
 * Dimension (struct image_dim, IMAGE_DIM_WORDS words each): all of them directly behind the header, in page 0.
 *   DIM_STRING: ref of an automaton: see struct image_dfa.
 *   DIM_RANGE:  ref of: word 0 = n; then n triples (low word, high word of the inclusive lower bound as u64, class),
 *               ascending, the first lower bound 0: the class of a value is that of the last bound <= value.
 *   DIM_BITS:   (num[slot] & mask) != 0 -> 2, else 1. mask = mask_lo | mask_hi << 32.
 *   DIM_MASKED: (num[slot] & mask) == value -> 2, else 1.
 *   DIM_PRESENT: slot present -> 2, else 1 (slot counts strings from ABI_NUM_SLOTS on).
 *   DIM_LINEAGE: lineage bit number `slot` (0 .. 64*ABI_LINEAGE_WORDS-1) set -> 2, else 1.
 *   DIM_NUMBERS: num[slot] against num[mask_lo]: CLASS_LESS, CLASS_SAME or CLASS_GREATER; one of them absent: CLASS_NONE.
 *   DIM_TEXTS: string slot against string mask_lo: CLASS_SAME; CLASS_LESS where the first is a proper beginning of the other, CLASS_GREATER
 *               where the other is one of the first, else CLASS_APART; one of them absent: CLASS_NONE. value_lo 1: ends, not beginnings.
 *   DIM_ANCESTORS: bit number `slot` (0 .. 63) of the names of all processes that the acting one descends from now, itself excluded
 *               -> 2, else 1. No subject dimension: looked up when a node asks.
 *   DIM_COUNT: a counter of the acting subject, which asking counts up: 2 where it has counted value_lo events or more within COUNTED_STEPS steps of
 *               value_hi microseconds, that of the clock's time included, else 1. Of a rule, whose other conditions hold wherever this is
 *               asked. mask: the rule, the same in all generations. See bpf/counted.h. Asked once for an event, and last.
 * An automaton over process.args or process.parent.args gives byte 0 the class of ' ': the kernel keeps arguments separated by NUL.
 * Automaton: 64 words of byte classes (256 bytes, byte value -> byte class 1..255), then states at any word offset.
 *   A state is the ref of its row (even). Rows are packed in one comb: cell k of row s is the two words at s + 2*k:
 *   word 0 = check (must equal s), word 1 = next state. Cell 0 is the state's own: word 0 = accept class of the state
 *   | DFA_STOP when every byte leads back to the state (a sink: the walk may end), word 1 = the default next state
 *   (taken where the check differs). Cell k >= 1 is byte class k. All cells of one row lie in one page.
 *   The check word of a cell 0 never equals a state's ref (accept classes are < 2^24, bit 31 is DFA_STOP, bit 30 set always).
 * Roots: row r (the subject leaf) has header.n_columns words: in column header.column[e] the diagram reference of event e in this group.
 *   Column 0 is that of all events that no rule is about. Row 0 of each group, and column 0, are all IMAGE_LEAF|0. Before the rows, none.
 * Subject diagram of a group: tests only subject dimensions; its leaf number is the row number.
 * Concern table: for each row of each group, IMAGE_CONCERN_WORDS words: first a bit for each event e, set where its root in the row is not
 * IMAGE_LEAF|0, then one set where a verdict that denies or kills can be reached from there. Of an open and a use of a descriptor for reading
 * alone there are bits of their own, CONCERN_OPEN_READ and CONCERN_PERMISSION_READ: whether anything can be reached with that access.
 * Verdict v: struct image_verdict at verdicts_ref + v * IMAGE_VERDICT_WORDS. Verdict 0 is "nothing".
 */
#define IMAGE_MAGIC 0x434e4642
#define IMAGE_PAGE_WORDS 262144
#define IMAGE_PAGE_BYTES 1048576
#define IMAGE_LEAF 0x80000000
#define IMAGE_DIM_WORDS 8
#define IMAGE_VERDICT_WORDS 6
#define IMAGE_CONCERN_WORDS 16       /* 2 * 2 * ABI_EVENT_WORDS */
#define IMAGE_MAX_PAGES 256
#define NODE_DENSE 0
#define NODE_SPARSE 1
#define CLASS_UNCERTAIN 0
#define CLASS_NONE 1
#define CLASS_LESS 2
#define CLASS_SAME 3
#define CLASS_GREATER 4
#define CLASS_APART 5
#define DFA_STOP 0x80000000
#define DFA_CELL0 0x40000000
#define DFA_CLASS_MASK 0x00ffffff
#define DIM_STRING 1
#define DIM_RANGE 2
#define DIM_BITS 3
#define DIM_MASKED 4
#define DIM_PRESENT 5
#define DIM_LINEAGE 6
#define DIM_ANCESTORS 7
#define DIM_NUMBERS 8
#define DIM_TEXTS 9
#define DIM_COUNT 10

/* image_dim.slot of DIM_COUNT: the counter's number | what is counted by << COUNT_BY_SHIFT | COUNT_ONCE */
#define COUNT_NUMBER_MASK 0xff
#define COUNT_BY_SHIFT 8
#define COUNT_BY_MASK 0xff
#define COUNT_BY_PROCESS 1
#define COUNT_BY_EXE 2
#define COUNT_BY_USER 3
#define COUNT_BY_CONTAINER 4
#define COUNT_BY_HOST 5
#define COUNT_ONCE 0x10000           /* it is enough once in a window: the rule only tells */
#define COUNTED_STEPS 8                /* of a window */

#define IMAGE_NEEDS_OBJECTS 1       /* header.features: some rule uses NUM_FILE_OBJECT */
#define IMAGE_SUBJECT_IDS 8          /* some subject diagram tests effective ids */
#define IMAGE_SUBJECT_CGROUP 16     /* some subject diagram tests the cgroup */
#define IMAGE_FORK_CHANGES 4        /* some rule uses lineage or the parent's executable: a fork changes the subject */
#define IMAGE_COUNTS 64              /* some rule counts */
#define IMAGE_DETAILS 32            /* records carry what is marked so above: some rule is reported with its result */

/* Of some events, by NEEDED_*: bits of which an event must have one, or no rule about it holds. It is the first look of their hooks. */
#define NEEDED_OPEN 0               /* file.open: ACCESS_* */
#define NEEDED_PERMISSION 1         /* file.permission: ACCESS_*, NEEDED_PLACELESS */
#define NEEDED_MMAP 2               /* file.mmap: PROT_*, NEEDED_SHARED */
#define NEEDED_MPROTECT 3           /* file.mprotect: the same */
#define NEEDED_EVENTS 4
#define NEEDED_SHARED 0x20000000    /* the mapping is shared */
#define NEEDED_NONE 0x40000000      /* a rule may hold without any of the bits */
#define NEEDED_PLACELESS 0x80000000 /* a rule may hold for what has no place in the tree of files */
#define OPEN_FLAGS_NOTED 0x10640     /* O_DIRECTORY | O_APPEND | O_TRUNC | O_CREAT: what is noted of an open is kept under them */

struct image_header {
	__u32 magic;
	__u32 abi;
	__u32 generation;
	__u32 words;
	__u32 n_dims;
	__u32 dims_ref;
	__u32 n_groups;
	__u32 verdicts_ref;
	__u32 n_verdicts;
	__u32 features;
	__u32 lineage_dfa;           /* ref of the automaton over executables, 0: no rule asks for lineage */
	__u32 lineage_masks;         /* ref: for each class of lineage_dfa 2*ABI_LINEAGE_WORDS words: the lineage bits it sets */
	__u32 concern_all[8];        /* OR of every concern table row: what programs must be attached */
	__u32 lineage_start;         /* ref of its start state */
	__u32 names_dfa;             /* ref of the automaton over command names, 0: no rule asks for names of ancestors */
	__u32 names_masks;           /* ref: for each class of names_dfa 2 words: the bits of DIM_ANCESTORS that it sets */
	__u32 names_start;
	__u32 enforcing_all[8];      /* OR of the second halves of the concern table */
	__u32 subject_root[8];       /* per group: diagram reference of the subject diagram */
	__u32 roots_ref[8];          /* per group: ref of the rows */
	__u32 concern_ref[8];        /* per group: ref of the concern table */
	__u32 lasting[2];            /* bit d: what dimension d looks at stays as it is as long as the access, the files, their names and the process do */
	__u32 opened[2];             /* bit d: dimension d looks at nothing of an open but those of its flags that are among OPEN_FLAGS_NOTED */
	__u32 addressed[2];          /* bit d: dimension d looks at nothing but a socket's kind, addresses and ports: struct socket_facts; or as `named` */
	__u32 named[2];              /* bit d: dimension d looks at the path of a unix socket */
	__u32 steady[2];             /* bit d: dimension d looks at nothing of a process but what struct known_rows is kept under */
	__u32 counts[2];             /* bit d: dimension d is DIM_COUNT */
	__u32 needed[4];             /* by NEEDED_* */
	__u32 n_columns;             /* words of a row of roots */
	__u8 column[256];            /* of each event */
};

struct image_dim {
	__u32 kind;
	__u32 slot;
	__u32 ref;
	__u32 mask_lo;
	__u32 mask_hi;
	__u32 value_lo;
	__u32 value_hi;
	__u32 start;                 /* DIM_STRING: ref of the start state */
};

struct image_verdict {
	__u32 action;                /* enum action_id: what is done; in audit mode ACTION_AUDIT */
	__u32 error;                 /* positive errno for deny and kill */
	__u32 report;                /* bits: REPORT_*, TO_* */
	__u32 first;                 /* number of the rule that error comes from: the smallest one's counts where groups agree on the action */
	__u32 signals[2];            /* what is sent to the acting process besides: bit s - 1 of the 64 is signal s */
};

/* When a record is written: at once, or when the system call has returned, if it has succeeded or failed. */
#define REPORT_DECISION 1
#define REPORT_SUCCESS 2
#define REPORT_FAILURE 4

/* Through which ring buffer, by what its rules want: as many of these as there are kinds of them. */
#define TO_DECISIONS 8
#define TO_CANDIDATES 16
#define TO_TELEMETRY 32

/* ---- System calls: map `calls`, array, index number of the call (64-bit table). Written by the agent. ---- */
#define CALLS_MAX 512
#define CALL_SENSED 1                /* its return is seen */
#define CALL_TEXTS 2
struct call {
	__u64 events[4];             /* bit e: event e may be the work of this call */
	__u32 flags;                 /* bits: CALL_* */
	__u8 text[4];                /* the first CALL_TEXTS count: which of its arguments, from 1 on, are names or other texts; 0: no more */
};

/* ---- Sensors: map `sensors`, hash, key u64: the cookie that a program is attached with, which is NUM_HOOK of its events. Written by the agent. ---- */
#define SENSORS_MAX 4096
#define SENSOR_ARGS 5
#define SENSOR_USER 1                /* what pointers point to lies in the memory of the acting process, and nowhere else */
#define SENSOR_CALL 2                /* the function is that of a system call: its argument is where the registers of the caller are */
#define SENSOR_CALL_SHIFT 16         /* in `flags` of a sensor on a hook of the LSM: the number of the call that it is about alone */
#define SENSOR_SIGNED 0x80           /* in `size`: the number has a sign */
#define SENSOR_SECOND_SHIFT 6        /* in `size`: the file is file.new_path */
#define SENSOR_ROOM_NEW_PATH 1       /* the `size` of a text: it may have the place of file.new_path, where no second file is read, */
#define SENSOR_ROOM_PATH 2           /* or that of file.path, where none is read; 0: it has 255 bytes */
enum sensor_read {
	SENSOR_NOTHING = 0,
	SENSOR_NUMBER = 1,           /* NUM_SENSOR_n */
	SENSOR_TEXT = 2,             /* a pointer to a text that ends with a NUL: STR_SENSOR_n */
	SENSOR_FILENAME = 3,         /* struct filename: STR_SENSOR_n */
	SENSOR_FILE = 4,             /* struct file: the file.* of the event, or file.new_path */
	SENSOR_PATH = 5,             /* struct path, in the same way */
	SENSOR_BINPRM = 6,           /* struct linux_binprm, in the same way */
	SENSOR_FD = 7,               /* a descriptor of the acting process, in the same way; NUM_SENSOR_n is its number */
	SENSOR_SOCK = 8,             /* struct sock: the net.* of the event */
	SENSOR_SOCKET = 9,           /* struct socket, in the same way */
	SENSOR_SOCKADDR = 10,        /* struct sockaddr in the kernel: net.family, net.peer.* */
	SENSOR_MODULE = 11,          /* struct module: its name in STR_SENSOR_n */
	SENSOR_DATA_LOC = 12,        /* of a tracepoint's record: a text that is elsewhere in it, STR_SENSOR_n */
	SENSOR_TEXT_HERE = 13,       /* of a tracepoint's record: a text that stands in it, STR_SENSOR_n */
	SENSOR_NET_DEVICE = 14,      /* struct net_device: its name in STR_SENSOR_n */
	SENSOR_BYTES = 15,           /* a pointer to bytes, as many as another argument says: STR_SENSOR_n; NUM_SENSOR_n: how many there are */
	SENSOR_CRED = 16,            /* struct cred: STR_SENSOR_WHOLE_n */
	SENSOR_USER_NS = 17,         /* struct user_namespace, in the same way */
	SENSOR_SYSCALL = 18,         /* the number of a system call: NUM_SENSOR_n, with CALL_COMPAT where it is one of the 32-bit table */
	SENSOR_CAPS = 19,            /* a pointer to a kernel_cap_t: NUM_SENSOR_n, bit c = capability c */
	SENSOR_SKB = 20,             /* struct sk_buff: the net.* of the event by the packet's headers; NUM_SENSOR_n: its bytes */
	SENSOR_SOCK_WHOLE = 21,      /* struct sock: struct sensor_sock in STR_SENSOR_WHOLE_n */
	SENSOR_SOCKET_WHOLE = 22,    /* struct socket, in the same way */
	SENSOR_SKB_WHOLE = 23,       /* struct sk_buff, in the same way */
	SENSOR_BPF_ATTR = 24,        /* union bpf_attr of a program's load: struct sensor_bpf in STR_SENSOR_WHOLE_n */
	SENSOR_BPF_PROG = 25,        /* struct bpf_prog, in the same way */
	SENSOR_BPF_MAP = 26,         /* struct bpf_map, in the same way */
	SENSOR_PERF_EVENT = 27,      /* struct perf_event: struct sensor_perf in STR_SENSOR_WHOLE_n */
};
#define SENSOR_LENGTH_SHIFT 8        /* in `at`: which argument says so */
#define SENSOR_LENGTH_INT 0x800      /* in `at`: and it has 32 bits */
#define SENSOR_AT_RETURN 0x1000      /* in `at`: the bytes are those that are there when the function returns, no more than it returns */
struct sensor {
	__u32 flags;                 /* bits: SENSOR_USER, SENSOR_CALL */
	__u16 at[5];                 /* of each argument: which one of the function, or of a tracepoint's record its offset */
	__u8 read[5];                /* enum sensor_read */
	__u8 size[5];                /* of a number its bytes, with SENSOR_SIGNED; of a text SENSOR_ROOM_* */
	__u8 result;                 /* the same of what the function returns; 0: that is not waited for */
	__u8 returned;               /* of what is returned as a whole: SENSOR_*_WHOLE */
	__u8 returned_to;            /* and n of STR_SENSOR_WHOLE_n */
	__u8 pad;
};

/* ---- Arguments in processes: map `user_values`, hash, key u64: the cookie of an attachment to a file. Written by the agent. Its lower 32 bits are the
 * number of the sensor; one sensor may be at several places, with its arguments elsewhere at each. ----
 */
enum user_from {
	USER_NOTHING = 0,
	USER_CONSTANT = 1,           /* `offset` */
	USER_REGISTER = 2,           /* what is in `reg` */
	USER_MEMORY = 3,             /* what the process has at `reg` + `index` * `scale` + `offset` */
};
#define USER_PLACES 8
struct user_value {
	__u64 offset;
	__u16 reg;                   /* offset in struct pt_regs */
	__u16 index;                 /* the same, where `scale` is not 0 */
	__u8 from;                   /* enum user_from */
	__u8 scale;
	__u8 size;                   /* bytes, with SENSOR_SIGNED */
	__u8 pad;
};
struct user_values {
	__u8 value[128];             /* struct user_value of each argument of the sensor, of USER_PLACES, */
	__u8 length[128];            /* and of how many bytes there are, for SENSOR_BYTES */
};

/* What is told of struct cred, and of struct user_namespace. */
struct sensor_cred {
	__u32 uid;
	__u32 gid;
	__u32 suid;
	__u32 sgid;
	__u32 euid;
	__u32 egid;
	__u32 fsuid;
	__u32 fsgid;
	__u32 securebits;
	__u32 user_ns;
	__u64 permitted;
	__u64 effective;
	__u64 inheritable;
};
struct sensor_user_ns {
	__u32 level;
	__u32 uid;
	__u32 gid;
	__u32 inum;
};
/* And of sockets and packets, of which an event has more than one. */
struct sensor_sock {
	__u16 family;
	__u16 type;
	__u16 protocol;
	__u16 state;                 /* TCP_* */
	__u16 source_port;
	__u16 destination_port;
	__u32 length;                /* of a packet, in bytes */
	__u8 source[16];             /* an IPv4 address is the first 4 bytes */
	__u8 destination[16];
};
struct sensor_bpf {
	__u32 type;
	__u32 size;                  /* of a program its instructions, of a map's key its bytes */
	__u32 value_size;
	__u32 max_entries;
	__u8 name[16];
};
struct sensor_perf {
	__u64 config;
	__u64 offset;                /* of a dynamic event from its function */
	__u32 type;
	__u32 pad;
	__u8 function[128];
};

/* ---- Control word page: map `control`, one entry, memory-mapped by the agent. ---- */
struct control {
	__u32 generation;            /* active generation; its page n is tables[(generation & 1) * IMAGE_MAX_PAGES + n]; 0: nothing is loaded */
	__u32 agent_pid;             /* tgid of the agent, exempt from kernel.bpf; 0: none */
	__u32 remembers;             /* odd: maps `known_files` and `folders` may be used, because what ends their truth is seen. Counted up at each change */
	__u32 needed[8];             /* image_header.needed of generation g: from NEEDED_EVENTS * (g & 1) on */
};

/* ---- Process records: map `processes`, key u32 tgid. ---- */
#define RECORD_FROM_ITER 1           /* read by the task iterator or at first sight, not at fork or exec */
#define RECORD_DEPENDS_IDS 2         /* the subject must be computed anew when the effective ids change */
#define RECORD_DEPENDS_CGROUP 4      /* the same for the cgroup */
#define RECORD_CGROUPS 8             /* threads of the process may be in several cgroups */
#define RECORD_FOLLOWS 16            /* the policies follow identities */
#define RECORD_CAUSES_SHIFT 16       /* from bit 16 on: why the subject was uncertain, the bits CAUSE_* */
struct process_record {
	__u64 concern[4];            /* bit e: some rule can apply to event e of this subject */
	__u64 enforcing[4];          /* bit e: some rule can deny event e of this subject; after an exec that of the subject before, until computed */
	__u32 generation;            /* of concern and subject */
	__u32 uid;                   /* effective; of concern and subject */
	__u32 gid;
	__u32 flags;
	__u64 cgroup;                /* of concern and subject */
	__u64 exec_id;               /* key of map `images` */
	__u64 start_time;            /* ns since boot */
	__u32 pid;
	__u32 ppid;
	__u32 workload;              /* class of the container that the cgroup is in, of `generation`; see map `workloads` */
	__u32 subject[8];            /* row per group */
	__u32 number;                /* of the subject in map `subjects`, 0: none */
};

/* ---- Workloads: map `workloads`, hash, key u64 cgroup id: the container whose own cgroup that is. Written by the agent. ---- */
#define WORKLOAD_UNKNOWN 0           /* neither the cgroup nor one above it is in the map */
#define WORKLOAD_PENDING 1           /* a container that the tables have no class for, yet */
#define WORKLOAD_FIRST 2             /* the first class of the tables */
#define WORKLOAD_LEVELS 16           /* how deep in the tree a container's own cgroup may be */
struct workload {
	__u32 class[2];              /* class of generation g: class[g & 1] */
};

/* The first look of every hook: map `concerns`, an array of struct concern, index tgid & (CONCERN_ENTRIES - 1). One cache line.
 * version: counts the changes of the records of all these tgids: a copy of a record made at a version is good while that lasts.
 * word: each is read and written whole, and stands for itself. Word w is about the events from w * CONCERN_BITS on: its bits
 * 0..CONCERN_BITS-1 are the complement of theirs in process_record.concern, so that a cleared word hides nothing; then CONCERN_TAG_BITS bits of
 * generation + version, then the upper CONCERN_PID_BITS bits of the tgid. The version is in it because a word may be stored late, by a task that
 * was preempted after it had looked at the subject: it is never right then. Of subjects that depend on ids no event stands here. The agent
 * clears the words whenever the bits of the generation come round.
 * The last word has CONCERN_SPARE bits for which there is no event: there stands process_record.number. In place of the bits of events 252 to 255,
 * of which there are none, stands what CONCERN_OPEN_READ and CONCERN_PERMISSION_READ say of the subject of that number, that the policies follow no
 * identities, and that the subject depends on neither ids nor cgroup.
 */
#define CONCERN_ENTRIES 16384
#define CONCERN_WORDS 7
#define CONCERN_BITS 40
#define CONCERN_TAG_BITS 16
#define CONCERN_TAG_MASK 0xffff
#define CONCERN_PID_BITS 8           /* a pid has 22 */
#define CONCERN_SPARE 24             /* the upper ones of the CONCERN_BITS */
#define CONCERN_OPEN_READ 252        /* in place of an event: file.open for reading alone */
#define CONCERN_PERMISSION_READ 253  /* the same of file.permission */
#define CONCERN_UNFOLLOWED 0x4000    /* in the last word */
#define CONCERN_EVERY 0x8000         /* the same */
struct concern {
	__u64 word[7];
	__u64 version;               /* behind the words: an index of a word that is masked with 7 stays within the struct */
};

/* One executed program: map `images`, key u64 exec_id. Lives while a process runs it or a living process descends from it. */
struct exec_image {
	__u64 parent_exec_id;        /* 0: unknown or none */
	__u64 time;                  /* ns since boot */
	__u64 lineage[2];            /* bits of all ancestors, self excluded; valid for `generation` */
	__u64 self_bits[2];          /* bits this executable sets for its descendants; valid for `generation` */
	__u64 name_bits;             /* bits of DIM_ANCESTORS that its name sets; valid for `names_generation` */
	__u32 refs;
	__u32 generation;
	__u32 names_generation;
	__u32 pid;
	__u32 flags;                 /* EXEC_* below; from bit 16 on the length of the chain of parents */
	__u32 exe_len;
	__u32 args_len;
	__u32 uid;
	__u32 gid;
	__u64 exe_ino;
	__u64 exe_dev;
	__u64 caps[3];               /* effective, permitted, inheritable, as the program began, or was seen first */
	__u32 namespaces[NAMESPACES]; /* the same of the inode numbers, in the order of NUM_NS_UTS and its kin; 0: not known */
	__u8 comm[16];
	__u8 args[64];               /* as on the process's stack: NUL-separated; longer ones stand in map `long_args` under the same key, and only there */
	__u8 exe[256];               /* longer ones stand in map `long_exes` under the same key, and only there */
};
#define EXEC_ARGS_TRUNCATED 1
#define EXEC_EXE_UNCERTAIN 2
#define EXEC_EXE_DELETED 4
#define EXEC_EXE_MEMFD 8
#define EXEC_FROM_ITER 16
#define EXEC_PARENT_UNKNOWN 32       /* there is or was a program before this one, and it is not known: the lineage is uncertain */

/* ---- Ring buffers: `decisions` for what has been denied, killed, audited; `candidates` for what user space must confirm; `telemetry` for events
 * that are asked for as such. A flood of one costs the others nothing.
 */
#define RING_DECISIONS 0
#define RING_CANDIDATES 1
#define RING_TELEMETRY 2
#define RINGS 3

#define RECORD_EVENT 1               /* struct event_header and a body */
#define EVENT_UNCERTAIN 1            /* some dimension was uncertain */
#define EVENT_PATH_UNCERTAIN 2
#define EVENT_NEW_PATH_UNCERTAIN 4
#define EVENT_RESULT 16              /* for rules that wait for the result (image_verdict.report without REPORT_DECISION) */
#define EVENT_DECISION 32            /* for rules that do not */
#define EVENT_AT_ONCE 64             /* written before the result was known, because its return is not seen: NUM_RESULT is absent */
#define EVENT_ORIGIN 256             /* file.path is that of the file apart from the bind mount it was reached through */
#define EVENT_KILL_REFUSED 512       /* the process was to be killed, and cannot be: denied only */
#define EVENT_SIGNALLED 1024         /* every signal that rules send was sent */
#define EVENT_CAUSES_SHIFT 16        /* from bit 16 on: why something was uncertain, the bits CAUSE_* */
#define EVENT_ASYNC 128              /* the work of io_uring or another thread of the kernel, not of a system call of its own */

/* Why a decision was uncertain: it is denied where an enforcing rule of the event concerns the process. */
#define CAUSE_MEMORY 1               /* no memory for the event; it has no record, and counts as a lost one */
#define CAUSE_RECORD 2               /* what is known of a process or its program is missing: a full map, no memory */
#define CAUSE_LINEAGE 4              /* not all ancestors are known */
#define CAUSE_PATH 8                 /* a path that is too long, or an object that has no name in the mount namespace of the acting task */
#define CAUSE_VALUE 16               /* a value that is longer than what is kept, or could not be read */
#define CAUSE_TABLE 32               /* the tables contradict themselves: a bug */
#define CAUSE_COUNT 64               /* there was no room to count for a rule, or it is not known whom for */
#define CAUSES 7

struct event_header {
	__u16 abi;
	__u8 type;
	__u8 n_verdicts;
	__u32 size;                  /* whole record */
	__u64 time;                  /* ns since boot (CLOCK_BOOTTIME) */
	__u64 sequence;              /* of the stream and ring buffer, from 1; a failed reserve takes a number too */
	__u16 cpu;
	__u16 stream;                /* records of one stream come in order; see map `sequences` */
	__u16 event;                 /* enum event_id */
	__u16 error;
	__u8 action;                 /* enum action_id: what was done */
	__u8 n_strings;
	__u16 text_size;             /* bytes of all strings */
	__u32 num_words;             /* bit w: the body has word w of the present numbers */
	__u32 flags;                 /* bits: EVENT_* */
	__u32 pid;
	__u32 tid;
	__u32 ppid;
	__u32 generation;
	__u32 uid;
	__u64 start_time;
	__u64 exec_id;
	__u64 parent_exec_id;
	__u64 cgroup;
	__u32 gid;
	__u32 workload;
	__u32 mnt_ns;
	__u32 pid_ns;
	__u32 net_ns;
	__u32 user_ns;
	__u8 comm[16];
};

/* The body, behind the header without padding, has only what is present:
 *   text_size bytes       strings, one after the other, not terminated
 *   a u64 for each bit of num_words    which numeric slots are present: bit n % 64 of word n / 64
 *   a u64 each            the present numbers from slot ABI_NUM_WIDE on, by slot
 *   a u32 each            the present numbers before it, by slot
 *   n_verdicts u32        the verdict of each group, 0: nothing
 *   n_strings u32         for each string, in their order: its slot, and from bit STRING_LENGTH_SHIFT on its length
 */
#define STRING_LENGTH_SHIFT 16
#define STRING_SLOT_MASK 0xffff

/* ---- Counters: map `counters`, per-CPU array, key enum counter_id, value u64. ---- */
enum counter_id {
	CNT_DECISIONS_WRITTEN = 0,   /* records by ring buffer, in the order of RING_* */
	CNT_CANDIDATES_WRITTEN = 1,
	CNT_TELEMETRY_WRITTEN = 2,
	CNT_DECISIONS_LOST = 3,
	CNT_CANDIDATES_LOST = 4,
	CNT_TELEMETRY_LOST = 5,
	CNT_DENIED = 6,
	CNT_AUDITED = 7,
	CNT_KILLED = 8,
	CNT_PATH_UNCERTAIN = 9,      /* paths, while CNT_UNCERTAIN_PATH counts events */
	CNT_RECORD_FAILED = 10,       /* a process or image record could not be stored */
	CNT_KILL_REFUSED = 11,        /* of those to be killed; counted as denied */
	CNT_SUBJECT_COMPUTED = 12,
	CNT_SPARE_TAKEN = 13,        /* events that found the memory of their CPU in use */
	CNT_HELD_FULL = 14,          /* no room to hold a record for its result: written at once */
	/* Events that something was uncertain in, by cause, in the order of CAUSE_*; whether or not that led to a denial. */
	CNT_UNCERTAIN_MEMORY = 15,
	CNT_UNCERTAIN_RECORD = 16,
	CNT_UNCERTAIN_LINEAGE = 17,
	CNT_UNCERTAIN_PATH = 18,
	CNT_UNCERTAIN_VALUE = 19,
	CNT_UNCERTAIN_TABLE = 20,
	CNT_UNCERTAIN_COUNT = 21,
	/* The same, those that were denied. */
	CNT_REFUSED_MEMORY = 22,
	CNT_REFUSED_RECORD = 23,
	CNT_REFUSED_LINEAGE = 24,
	CNT_REFUSED_PATH = 25,
	CNT_REFUSED_VALUE = 26,
	CNT_REFUSED_TABLE = 27,
	CNT_REFUSED_COUNT = 28,
	/* Events for which the hook program found no engine in its place: all, and those that were denied. */
	CNT_UNCERTAIN_ENGINE = 29,
	CNT_REFUSED_ENGINE = 30,
	CNT_RETURNS_MISSED = 31,     /* calls that sensors saw begin and not return, or return when nothing was kept of them any more */
	CNT_SIGNALS_SENT = 32,       /* other than those that kill: those count as CNT_KILLED */
	CNT_SIGNALS_REFUSED = 33,    /* the kernel has not sent them */
	CNT_MAX = 34,
};
/* Lost records by event: map `lost`, per-CPU array, key enum event_id, value u64.
 *
 * What agents have told of them: map `told`, array, key enum event_id, value u64; behind the events of CNT_REFUSED_MEMORY,
 * CNT_REFUSED_TABLE and CNT_REFUSED_ENGINE.
 */
#define TOLD_REFUSED_MEMORY 256
#define TOLD_REFUSED_TABLE 257
#define TOLD_REFUSED_ENGINE 258
#define TOLD_MAX 259

/* ---- Counters of rules: map `counted`, hash: one of each rule and subject. Written by DIM_COUNT; what has not counted for a window the agent
 * takes away, and what a process has counted its end. ----
 */
struct count_key {
	__u64 rule;                  /* image_dim.mask */
	__u64 one;                   /* by process: tgid; by exe: inode; by user: effective uid; by container: id of its cgroup, 0: in none */
	__u64 other;                 /* by process: start of it; by exe: device */
};
struct counted {
	__u64 total;                 /* events since it began */
	__u64 mark[COUNTED_STEPS];     /* by number of the step % COUNTED_STEPS: number << 32 | total (32 bits) before the step's first event */
	__u64 told;                  /* step in which COUNT_ONCE has let it be told, 0: never */
	__u64 ends;                  /* ns since boot when nothing of it counts any more */
};

/* ---- Objects: map `objects`, hash, written by the agent when rules use `follow: object`. ---- */
struct object_key {
	__u64 ino;
	__u64 dev;
	__u64 generation;
};
/* value: u64 bit set: bit b is object set b. */

#endif
