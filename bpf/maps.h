/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every map, and the scratch memory of one hook invocation. Each map is defined once, in engine.bpf.c (which defines
 * BPFENCE_DEFINE_MAPS); the other files see extern declarations that the BPF linker resolves.
 */
#ifndef BPFENCE_MAPS_H
#define BPFENCE_MAPS_H

#include "kernel.h"
#include "abi.h"

#ifdef BPFENCE_DEFINE_MAPS
#define MAP
#else
#define MAP extern
#endif

#define SCRATCH_DATA 16384
#define SCRATCH_MASK 16383
#define SCRATCH_SLACK 256
#define AREA_PATH_END 5120      /* file.path is built downwards from here */
#define AREA_NEW_PATH_END 10240 /* file.new_path */
#define AREA_SMALL 10240        /* short strings that a hook sets, 256 bytes each */
#define AREA_LOADED 12288       /* the one string that was loaded last: executable, arguments, cgroup, working directory */
#define GRAVEYARD 1024
#define HELD_MAX 128
#define PENDING_ENTRIES 16384
#define ENDED_MAX 256 /* tasks between two programs of one return */
#define PATH_STEPS 32        /* components of a path that is matched where it lies */
#define PATH_STEPS_MOUNTS 4  /* and mounts on its way */
#define STEPS_NONE 0
#define STEPS_OF(which) (1 + (which)) /* of file.path (which 0) or file.new_path (1) */
#define STEPS_PSEUDO 4                /* added: a file outside the tree, whose name alone is its path */
#define STEPS_LAST 8                  /* added: the last component alone; what is above is in folder_states */
#define FOLDERS 1024
#define FOLDER_STATES 8
#define FOLDER_QUIET 16
#define QUIET_WAYS 4
#define SUBJECTS 512
#define RECORD_OWN (~0ULL)

/* What is decided on of a socket: the values that the event is filled with. See peer.h. */
struct socket_facts {
	u64 of;       /* event | type << 8 | kinds of the addresses | FACTS_SOCK | number of the subject << 32 */
	u64 ports;    /* family | protocol << 16 | local port << 32 | the peer's << 48 */
	u64 local[2]; /* as they lie in memory; of IPv4 the lower half of the first word */
	u64 peer[2];
};

/* The memory of one hook invocation: what is known of the event so far, and what was derived from it. */
struct scratch {
	u64 lock;                /* how many hooks want this slot, see scratch_take; not used of spare ones */
	u32 event;
	u32 generation;
	u32 flags;               /* EVENT_* */
	u32 features;            /* image_header.features */
	u64 lasting;             /* image_header.lasting */
	u64 counts;              /* image_header.counts */
	struct count_key count_key; /* of the counter that is asked */
	struct counted count_new;
	u64 have_class;          /* bit d: class[d] is known */
	u32 class[ABI_MAX_DIMS];
	u64 num_present[ABI_NUM_WORDS];
	u64 num_uncertain[ABI_NUM_WORDS]; /* bit n: there is a value, and it is not known */
	u64 num[ABI_NUM_SLOTS];
	u64 str_present;         /* bit s: str_offset/str_length[s] are valid */
	u64 str_tried;           /* bit s: no use to try again */
	u64 str_uncertain;       /* bit s: the value is incomplete */
	u64 foreign;             /* bit s: the path has been walked on a mount of another namespace, or of none */
	u32 small;               /* next free byte of the area of short strings */
	u32 loaded;              /* 1 + the string slot that AREA_LOADED holds */
	u32 str_offset[ABI_STR_SLOTS];
	u32 str_length[ABI_STR_SLOTS];
	u64 lineage[ABI_LINEAGE_WORDS];
	u32 lineage_uncertain;
	u64 names;               /* bits of DIM_ANCESTORS, where str_tried has STR_ANCESTORS */
	s64 names_status;
	u32 has_record;          /* the process record of the acting process could be stored */
	u64 dentry[2];           /* what file.path and file.new_path are to be resolved from, 0: nothing */
	u64 mount[2];            /* struct vfsmount */
	u64 inode;               /* what the numbers file.* are read from when one is asked for, 0: nothing */
	u64 text;                /* the name that could not be opened, in kernel memory */
	u64 walk_dentry;         /* state of the path walk */
	u64 walk_mount;
	u64 walk_objects;
	struct object_key object;
	u32 walk_offset;
	u32 walk_limit;
	u64 steps[PATH_STEPS];   /* dentries, the file first */
	u64 n_steps;
	u64 steps_of;            /* STEPS_*: whose steps these are */
	u32 steps_left;          /* steps that the automaton has not been over yet */
	u32 name_left;           /* bytes of the next one that are left, NAME_WHOLE: all, and the '/' in front */
	u64 tree;                /* tree_version when the event began, 0: not looked at */
	u64 folder;              /* the dentry of the folder that the steps lead out of, 0: nothing may be kept of it */
	u64 folder_tree;         /* folder_version before it was looked at */
	u64 renames;             /* rename_count before that */
	u64 folder_since;        /* as struct folder has it */
	u64 folder_objects;      /* followed identities on the way, without the file's own */
	u64 folder_states[FOLDER_STATES];
	u32 dfa_folder;          /* the state before the last component */
	u32 path_asked[2];       /* as struct quiet_note has it */
	u32 paths_asked;         /* of some path more than one dimension was asked */
	u64 quiet;               /* the key of a note for folder_note to keep */
	u64 quiet_layer;         /* the same while the file of a layer is decided on, with the file's folder and mount */
	u64 quiet_folder;
	u64 quiet_mount;
	struct socket_facts facts; /* those that the event was filled with */
	u32 port_first[2];       /* what is noted of ports: the own one's and the peer's */
	u32 port_last[2];
	u32 dfa_state;           /* state of the automaton run, where it goes on in another chunk */
	u32 dfa_position;
	u32 dfa_end;
	u32 dfa_classes;
	u32 text_one;            /* state of a comparison of texts: where the first, in emit_space.data, is to be read on, */
	u32 text_other;          /* and where the other, in data */
	u32 text_left;           /* bytes that are not compared yet */
	u32 text_blank;          /* what NUL stands for in them */
	u32 n_groups;
	u32 column;              /* of the event in a row of roots */
	u32 node;                /* where the walk of a diagram stands */
	u32 low;                 /* limits of a binary search */
	u32 high;
	u64 kernfs;              /* state of the cgroup walk */
	u64 target;              /* struct task_struct that the event is about, where it has NUM_TARGET_PID */
	u64 mnt_ns;              /* the namespace that paths are told in, 0: the acting task's */
	struct process_record record;
	u64 record_version;      /* concern.version when the record was copied from the map; RECORD_OWN: it was not */
	u64 parent_exec_id;
	u32 action;
	u32 error;
	u32 report;
	u32 first;               /* image_verdict.first of what was chosen */
	u64 signals;             /* image_verdict.signals of all groups */
	u32 verdict[ABI_MAX_GROUPS];
	u8 data[SCRATCH_DATA + SCRATCH_SLACK];
};

/* Written by the agent through mmap; read at every hook. One entry. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct control);
} control SEC(".maps");

struct image_page {
	u32 word[IMAGE_PAGE_WORDS];
};

/* All pages have one size, so that look-ups of both levels are inlined (array_map_gen_lookup refuses BPF_F_INNER_MAP), and they
 * are filled through mmap. By size, not by type: clang leaves a type that only a map of maps names as a forward declaration in the BTF
 * (libbpf: "can't determine value size").
 */
struct image_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, IMAGE_PAGE_BYTES);
};

/* Page n of the image of generation g is tables[(g & 1) * IMAGE_MAX_PAGES + n]. Written by the agent, read by match_*. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2 * IMAGE_MAX_PAGES);
	__type(key, u32);
	__array(values, struct image_map);
} tables SEC(".maps");

/* One record a process, key tgid: from fork, or from the first sight of it, to its end. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, u32);
	__type(value, struct process_record);
} processes SEC(".maps");

/* See abi.h. Written when a subject is computed, at fork, exec and exit; read at every hook. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CONCERN_ENTRIES);
	__type(key, u32);
	__type(value, struct concern);
} concerns SEC(".maps");

/* The classes of containers, key the id of the cgroup that is theirs. Written by the agent, read when a subject is computed. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct workload);
} workloads SEC(".maps");

/* What sensors read: see struct sensor. Written by the agent, read at every event of theirs. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SENSORS_MAX);
	__type(key, u64);
	__type(value, struct sensor);
} sensors SEC(".maps");

/* Calls of functions whose return a sensor waits for: what it has read of each when the function was called. Written by sensor_entry, taken by
 * sensor_return. A call that never returns, or whose return the kernel does not tell, stays until its place is needed.
 */
#define FRAMES 512
#define FRAME_DATA 2048
#define FRAME_TEXT 1024 /* a text has less bytes than that */
#define FRAME_NUMBERS 13
#define FRAME_TEXTS 14

struct frame_key {
	u64 thread; /* as bpf_get_current_pid_tgid has it */
	u64 stack;  /* where the function's return address is: no two calls of a thread at one time have it in one place */
	u64 cookie; /* of the sensor: there can be several on a function */
};

struct frame {
	struct frame_key key;
	u64 start;                /* of the thread: another one may have its number by then */
	u32 present;              /* bits: of the numbers, in the order of FRAME_EACH_NUMBER */
	u32 uncertain;
	u32 text_present;         /* bits: of the texts, in the order of frame_text */
	u32 text_uncertain;
	u64 num[FRAME_NUMBERS];
	u64 pointer[SENSOR_ARGS]; /* of what is read at the return */
	u64 length[SENSOR_ARGS];
	u16 offset[FRAME_TEXTS];
	u16 size[FRAME_TEXTS];
	u64 end;                  /* key.stack once more, written last */
	u8 data[FRAME_DATA];
};

MAP struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, FRAMES);
	__type(key, struct frame_key);
	__type(value, struct frame);
} frames SEC(".maps");

/* One while it is put together, or taken apart: in the emit_space of the event, which is not used by then. */
struct frame_space {
	struct frame frame;
	u8 slack[FRAME_TEXT];
};

/* Where the arguments of a sensor in processes are: see struct user_values. Written by the agent, read at every event of theirs. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SENSORS_MAX);
	__type(key, u64);
	__type(value, struct user_values);
} user_values SEC(".maps");

/* One record an executed program, key exec_id; reference counted, see exec_image. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, u64);
	__type(value, struct exec_image);
} images SEC(".maps");

struct long_exe {
	u8 path[ABI_PATH_MAX];
};

/* Executables whose path does not fit into their image, key exec_id; go with it. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, u64);
	__type(value, struct long_exe);
} long_exes SEC(".maps");

struct long_args {
	u8 args[ABI_ARGS_MAX];
};

/* The same for arguments. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, u64);
	__type(value, struct long_args);
} long_args SEC(".maps");

/* exec_ids whose last process has ended: kept until GRAVEYARD later ones push them out, so that user space can still ask. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, GRAVEYARD);
	__type(value, u64);
} graveyard SEC(".maps");

/* Records to the agent, by RING_*: see abi.h. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 2 * 1024 * 1024);
} decisions SEC(".maps");

MAP struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1024 * 1024);
} candidates SEC(".maps");

MAP struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} telemetry SEC(".maps");

/* Counters by enum counter_id; written by the programs, read by the agent. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, CNT_MAX);
	__type(key, u32);
	__type(value, u64);
} counters SEC(".maps");

/* Records that found no room, by enum event_id. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, ABI_MAX_EVENTS);
	__type(key, u32);
	__type(value, u64);
} lost SEC(".maps");

/* What agents have told of `lost` and of the refusals without a record. Only agents use it: the next one tells the rest. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TOLD_MAX);
	__type(key, u32);
	__type(value, u64);
} told SEC(".maps");

struct sequence {
	u64 last[RINGS];
};

/* Sequence numbers of records by ring buffer, one stream a scratch slot: whoever holds the slot is the only one who counts, so two records
 * never share a number, whatever is preempted. Sized by the loader.
 */
MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct sequence);
} sequences SEC(".maps");

/* By size, as struct image_map. */
struct object_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(struct object_key));
	__uint(value_size, sizeof(u64));
};

/* Identities that rules follow: struct object_key -> bits. Those of generation g are in the map objects[g & 1], which the agent makes as large as
 * they need, and writes before the generation is switched on; none where there are none.
 */
MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2);
	__type(key, u32);
	__array(values, struct object_map);
} objects SEC(".maps");

/* What rules that count have counted: see counted.h. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct count_key);
	__type(value, struct counted);
} counted SEC(".maps");

#define OBJECT_FILTER_WORDS 1024

/* Which inodes may be followed identities: bit object_bit of each. */
struct object_filter {
	u64 word[OBJECT_FILTER_WORDS];
};

/* The filter of generation g is entry g & 1. Written by the agent as `objects` is. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, u32);
	__type(value, struct object_filter);
} object_filters SEC(".maps");

#define KNOWN_WAYS 4 /* processes that an inode remembers */

/* Accesses of one process to a file by one name that no rule has anything to say about: see known.h. */
struct known_access {
	u64 writers; /* who wants to write it */
	u64 begun;   /* how often it was written: begun, */
	u64 ended;   /* and ended; they differ while it is being written */
	u64 process; /* generation << 32 | tgid */
	u64 version; /* of the process's record */
	u64 ids;     /* effective user and group of the acting task */
	u64 cgroup;  /* of the acting task: threads of a process may be in several */
	u64 dentry;
	u64 mount;
	u64 mnt_ns;
	u64 tree;    /* tree_version */
	u64 accesses; /* bit MAY_EXEC | MAY_WRITE | MAY_READ of each */
};

struct known_file {
	struct known_access of[KNOWN_WAYS];
};

/* Goes with the inode. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_INODE_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct known_file);
} known_files SEC(".maps");

/* That nothing follows from an event on a file of the folder: see quiet.h. */
struct quiet_note {
	u64 key;     /* 0: none */
	u32 path[2]; /* of file.path and file.new_path: dimension + 1 | class << 8 of the one that was asked, 0: none */
};

/* What the way up from a folder has told: see folder.h. */
struct folder {
	u64 writers; /* as in known_access */
	u64 begun;
	u64 ended;
	u64 dentry;  /* 0: nothing */
	u64 mount;   /* struct vfsmount */
	u64 mnt_ns;
	u64 tree;    /* folder_version */
	u64 since;   /* generation << 32 | control.remembers */
	u64 objects; /* followed identities: the folder's and those of what is above */
	u64 id;      /* of the entry's index and how many folders it has been for: no two have one */
	u64 state[FOLDER_STATES]; /* by dimension % FOLDER_STATES: (dimension + 1) << 32 | state behind the folder's path */
	struct quiet_note quiet[FOLDER_QUIET]; /* where quiet_place puts them */
};

MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FOLDERS);
	__type(key, u32);
	__type(value, struct folder);
} folders SEC(".maps");

#define NAME_NOTES 8192
#define NOTED_WORDS 4 /* a name of COMPAT_INLINE_NAME bytes, or two of NOTED_HALF, NUL behind their end */
#define NOTED_HALF 15

/* That nothing follows from an event on a name in a folder: see noted.h. One cache line. */
struct name_note {
	u32 writers; /* as in known_access */
	u32 begun;
	u32 ended;
	u32 spare;
	u64 folder;  /* its id */
	u64 name[NOTED_WORDS];
	u64 key;     /* as in quiet_note */
};

MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NAME_NOTES);
	__type(key, u32);
	__type(value, struct name_note);
} name_notes SEC(".maps");

#define FILE_NOTES 2048
#define FILE_NOTE_KEYS 4

/* That nothing follows from accesses to the file of a dentry: see opened.h. */
struct file_note {
	u32 writers; /* as in known_access */
	u32 begun;
	u32 ended;
	u32 since;   /* control.remembers */
	u64 dentry;  /* 0: nothing */
	u64 mount;   /* struct vfsmount */
	u64 mnt_ns;
	u64 inode;   /* of the file */
	u64 tree;    /* tree_version */
	u64 key[FILE_NOTE_KEYS]; /* as in quiet_note; 0: none */
};

MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FILE_NOTES);
	__type(key, u32);
	__type(value, struct file_note);
} file_notes SEC(".maps");

/* Renames of files, as the programs on d_move count them: see folder_version. One entry. */
struct moves {
	u64 begun;
	u64 ended;
};

MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct moves);
} moves SEC(".maps");

/* The tasks (bpf_get_current_pid_tgid()) that are at it. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, u32);
} moving SEC(".maps");

#define SOCKET_NOTES 1024

/* That nothing follows. `writers`, `begun`, `ended`: as in known_access. */
struct socket_note {
	u64 writers;
	u64 begun;
	u64 ended;
	struct socket_facts facts;
	u16 own_first; /* the ports that it is about, in place of those of `facts` */
	u16 own_last;
	u16 peer_first;
	u16 peer_last;
};

/* Where facts_place puts them. Written by the engine, read by the programs of sockets. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SOCKET_NOTES);
	__type(key, u32);
	__type(value, struct socket_note);
} socket_notes SEC(".maps");

#define SUBJECT_FLAGS (RECORD_DEPENDS_IDS | RECORD_DEPENDS_CGROUP | ~0U << RECORD_CAUSES_SHIFT)

#define KNOWN_ROWS 256
#define KNOWN_EXE_WORDS 16

/* What a subject came to, for the next process that is alike: see subject.h. `writers`, `begun`, `ended`: as in known_access. */
struct known_rows {
	u64 writers;
	u64 begun;
	u64 ended;
	u32 generation;
	u32 workload;
	u64 ids;     /* effective user << 32 | group */
	u64 cgroup;
	u64 comm[2]; /* of the program, as in exec_image */
	u64 exe_len;
	u64 exe[KNOWN_EXE_WORDS]; /* the same; NUL behind its end */
	u64 concern[ABI_EVENT_WORDS]; /* as in process_record */
	u64 enforcing[ABI_EVENT_WORDS];
	u32 subject[ABI_MAX_GROUPS];
};

MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, KNOWN_ROWS);
	__type(key, u32);
	__type(value, struct known_rows);
} known_rows SEC(".maps");

/* A subject, and the number that it was given: see quiet.h. */
struct known_subject {
	u64 writers; /* who wants to write it */
	u32 number;  /* 0: it is being written */
	u32 given;   /* how many numbers the entry has given */
	u32 generation;
	u32 flags;   /* SUBJECT_FLAGS of process_record.flags */
	u64 ids;     /* user << 32 | group, where it depends on them */
	u64 cgroup;  /* the same */
	u32 objects; /* whether the image needs followed identities */
	u32 subject[ABI_MAX_GROUPS];
};

MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SUBJECTS);
	__type(key, u32);
	__type(value, struct known_subject);
} subjects SEC(".maps");

/* Memory of hook invocations: SCRATCH_OWN entries a CPU, the CPU's number times SCRATCH_OWN being the first, and from first_spare on those
 * that any CPU may take. Sized by the loader, as emit_spaces and image_spaces are, whose entry n belongs to scratch n.
 */
MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

/* Numbers of the spare entries that nobody holds. Filled by the loader; taken from and given back to by scratch_take and scratch_give. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 1);
	__type(value, u32);
} spares SEC(".maps");

#define BODY_MAX (SCRATCH_DATA + 2048) /* strings, then at most 32 + 1024 + 512 + 32 + 256 bytes of the rest: see abi.h */
#define BODY_MASK 32767
#define AT_BODY(at) MASKED(at, BODY_MASK)
#define BODY_SLACK 512                 /* 64 numbers of 8 bytes */

/* A record while it is put together: numbers and the lengths of strings by slot, then what is written as it stands, header and body. */
struct emit_space {
	u32 results;                   /* REPORT_* that it waits for */
	u64 num_present[ABI_NUM_WORDS];
	u64 num[ABI_NUM_SLOTS];
	u32 string[ABI_STR_SLOTS];
	u32 verdict[ABI_MAX_GROUPS];
	struct event_header header;
	u8 data[BODY_MAX + BODY_SLACK];
};

/* Where a record is put together before it is copied to a ring buffer. With BPF_F_INNER_MAP (v5.10, 4a8f87e60f6d), which makes the verifier call
 * for each look-up instead of putting it in place: of these two there are many, of which few are made, and each that is put in place has a copy
 * made of all that is known of the program.
 */
MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_INNER_MAP);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct emit_space);
} emit_spaces SEC(".maps");

/* What the system calls are events of, by number; written by the agent. See abi.h. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CALLS_MAX);
	__type(key, u32);
	__type(value, struct call);
} calls SEC(".maps");

#define HELD_TEXT 12288 /* bytes of the strings of a record that can be held */

/* As struct emit_space begins. */
struct held_record {
	u32 results;
	u64 num_present[ABI_NUM_WORDS];
	u64 num[ABI_NUM_SLOTS];
	u32 string[ABI_STR_SLOTS];
	u32 verdict[ABI_MAX_GROUPS];
	struct event_header header;
	u8 text[HELD_TEXT];
};

_Static_assert(offsetof(struct held_record, text) == offsetof(struct emit_space, data), "a held record is the beginning of an emit_space");

/* Records that wait for the end of their task's system call, key bpf_get_current_pid_tgid(). Few do at a time: where the kernel can allocate
 * in any context, the loader makes the map without preallocation, which takes 1.9 MiB.
 */
MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, HELD_MAX);
	__type(key, u64);
	__type(value, struct held_record);
} held SEC(".maps");

/* How many records the tasks with a thread id of that remainder have in map `held`: the first look of every return. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PENDING_ENTRIES);
	__type(key, u32);
	__type(value, u32);
} pending SEC(".maps");

/* What a task's system call that has just ended is to the program that goes on with it, key bpf_get_current_pid_tgid(): an event and what of
 * its arguments and result is looked at.
 */
#define ENDED_EVENT 0xff
#define ENDED_TEXT_SHIFT 8
#define ENDED_TEXT(argument) ((argument) << ENDED_TEXT_SHIFT) /* that argument is a text */
#define ENDED_RING (1 << 16)
#define ENDED_DUP (1 << 17)

MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ENDED_MAX);
	__type(key, u64);
	__type(value, u32);
} ended SEC(".maps");

/* That program, see ended.bpf.c. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} ended_calls SEC(".maps");

/* Where the image of a program is put together. */
MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_INNER_MAP);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct exec_image);
} image_spaces SEC(".maps");

/* One more in a counter. Atomically, though it is the CPU's own: a program may be preempted, or interrupted by another one, between a load and a
 * store. In engine.bpf.c.
 */
int count(u32 counter);

/* A record of `event` that user space will not get. */
int count_lost(u32 event, u32 ring);

/* Eight bytes to any place. Through a parameter: where clang sees that the place lies in an array of bytes, it stores byte by byte. */
static __always_inline void store_word(void *to, u64 word)
{
	*(u64 *)to = word;
}

static __always_inline void store_half(void *to, u32 half)
{
	*(u32 *)to = half;
}

static __always_inline struct scratch *scratch_at(u32 slot)
{
	return bpf_map_lookup_elem(&scratches, &slot);
}

#endif
