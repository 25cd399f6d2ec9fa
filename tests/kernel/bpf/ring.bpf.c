// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A stand-in for the engine's object, for tests of the loader on any kernel: nothing here is attached, `write_records` is run by
 * BPF_PROG_TEST_RUN, and the verifier refuses `refused`.
 */
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile __u32 have_bpf_loop = 7;
const volatile __u64 large = 0x1122334455667788;
const volatile _Bool flag = 0;
const volatile __u32 record_size = 40;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} alerts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} telemetry SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u64);
	__type(value, __u32);
} table SEC(".maps");

static __u8 buffer[256];

/* One alert and two telemetry records; the first word of each is its number. */
SEC("raw_tp/sys_enter")
int write_records(void *ctx)
{
	__u32 zero = 0, size = record_size, *number = bpf_map_lookup_elem(&counters, &zero);

	if (!number || size > sizeof(buffer))
		return 0;
	*number += 1;
	__builtin_memcpy(buffer, number, sizeof(*number));
	bpf_ringbuf_output(&telemetry, buffer, size, 0);
	bpf_ringbuf_output(&alerts, buffer, size, 0);
	bpf_ringbuf_output(&telemetry, buffer, size, 0);
	return 0;
}

SEC("raw_tp/sys_enter")
int refused(void *ctx)
{
	return *(volatile int *)0x1234;
}
