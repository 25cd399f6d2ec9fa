// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* System V IPC: the events ipc.*. */
#include "engine.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline int ipc_event(u32 event, struct kern_ipc_perm *perm)
{
	struct scratch *s;
	u32 slot;

	s = event_begin(event, &slot);
	if (!s)
		return event_refused(slot);
	set_num(s, NUM_IPC_ID, BPF_CORE_READ(perm, id));
	set_num(s, NUM_TARGET_UID, BPF_CORE_READ(perm, uid.val));
	return event_end(s, slot);
}

SEC("lsm/ipc_permission")
int BPF_PROG(ipc_permission__ipc, struct kern_ipc_perm *perm, short flag, int ret)
{
	HONOUR(ret);
	return ipc_event(EV_IPC_ACCESS, perm);
}

SEC("lsm/msg_queue_msgsnd")
int BPF_PROG(msg_queue_msgsnd__ipc, struct kern_ipc_perm *perm, void *message, int flag, int ret)
{
	HONOUR(ret);
	return ipc_event(EV_IPC_MSGSND, perm);
}

SEC("lsm/shm_shmat")
int BPF_PROG(shm_shmat__ipc, struct kern_ipc_perm *perm, char *address, int flag, int ret)
{
	HONOUR(ret);
	return ipc_event(EV_IPC_SHMAT, perm);
}
