/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sensors in processes: where each argument is says map `user_values`, by the cookie of the attachment. Included by sensor.bpf.c alone.
 */
#ifndef BPFENCE_USER_H
#define BPFENCE_USER_H

/* Bytes of struct pt_regs of x86-64: what kernel.h has of it is less. */
#define USER_REGISTERS 168

static __always_inline u64 user_register(u64 regs, u32 at)
{
	u64 value = 0;

	if (at <= USER_REGISTERS - sizeof(value))
		bpf_probe_read_kernel(&value, sizeof(value), (void *)(regs + at));
	return value;
}

/* Value `number` of those of a cookie, into the slot of what was given: of USER_PLACES arguments, behind which their lengths are. 1: the memory
 * of the process cannot be read now.
 */
__noinline int user_value(u32 slot, u32 number, u64 cookie, u64 regs)
{
	struct user_values *values = bpf_map_lookup_elem(&user_values, &cookie);
	struct scratch *s = scratch_at(slot);
	struct user_value *one;
	u64 value = 0, at;
	u32 size;

	if (!s || !values)
		return 1;
	/* Both arrays are one to the mask: a comparison would be of another register than what is added (6.12, clang 14). */
	one = (struct user_value *)values + MASKED(number, 2 * USER_PLACES - 1);
	size = one->size & 15;
	if (one->from == USER_CONSTANT)
		value = one->offset;
	else if (one->from != USER_NOTHING)
		value = user_register(regs, one->reg);
	if (one->from == USER_MEMORY) {
		at = value + one->offset;
		if (one->scale)
			at += user_register(regs, one->index) * one->scale;
		value = 0;
		if (size > sizeof(value))
			size = sizeof(value);
		if (bpf_probe_read_user(&value, size, (void *)at))
			return 1;
	}
	if (size && size < sizeof(value)) {
		u32 unused = 64 - size * 8;

		value = one->size & SENSOR_SIGNED ? (u64)((s64)(value << unused) >> unused) : value << unused >> unused;
	}
	at = number < USER_PLACES ? GIVEN + number : GIVEN + GIVEN_MAX + number - USER_PLACES;
	s->num[MASKED(at, ABI_NUM_SLOTS - 1)] = value;
	return 0;
}

/* The arguments of a sensor into the slots of the event. The length of argument n has place n among those that were given: so says `at`. */
static __always_inline void user_read(struct scratch *s, u32 slot, const struct sensor *sensor, struct pt_regs *ctx, u64 cookie)
{
	u64 regs = address_of(s, ctx);
	u32 i;

#pragma unroll
	for (i = 0; i < SENSOR_ARGS; i++) {
		u32 read = sensor->read[i], at = sensor->at[i], flags = SENSOR_USER | (u32)sensor->size[i] << 8;

		if (!read)
			continue;
		if (user_value(slot, i, cookie, regs) || (read == SENSOR_BYTES && user_value(slot, USER_PLACES + i, cookie, regs))) {
			set_num_uncertain(s, NUM_SENSOR_0 + i);
			s->str_uncertain |= STR_BIT(STR_SENSOR_0 + i);
		} else if (!(at & SENSOR_AT_RETURN)) {
			sensor_argument(slot, i, read, flags | at >> SENSOR_LENGTH_SHIFT << 16, 0);
		}
	}
}

#endif
