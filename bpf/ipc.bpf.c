// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* System V IPC: the events ipc.*. */
#include "hook.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline int decide_ipc(struct scratch *s, u32 slot, struct kern_ipc_perm *perm)
{
	set_num(s, NUM_IPC_ID, BPF_CORE_READ(perm, id));
	set_num(s, NUM_IPC_UID, BPF_CORE_READ(perm, uid.val));
	return decide(slot);
}

SEC("lsm/ipc_permission")
int HOOK_PROG(ipc_permission__ipc, EV_IPC_ACCESS, struct kern_ipc_perm *perm, short flag, int ret)
{
	return decide_ipc(s, slot, perm);
}

SEC("lsm/msg_queue_msgsnd")
int HOOK_PROG(msg_queue_msgsnd__ipc, EV_IPC_MSGSND, struct kern_ipc_perm *perm, void *message, int flag, int ret)
{
	return decide_ipc(s, slot, perm);
}

SEC("lsm/shm_shmat")
int HOOK_PROG(shm_shmat__ipc, EV_IPC_SHMAT, struct kern_ipc_perm *perm, char *address, int flag, int ret)
{
	return decide_ipc(s, slot, perm);
}
