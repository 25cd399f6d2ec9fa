/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The decision for one event: the leaves of all groups, what is uncertain, what is denied, killed, told. */
#ifndef BPFENCE_DECIDE_H
#define BPFENCE_DECIDE_H

#include "subject.h"

static __always_inline void decide_leaf(struct scratch *s, struct image_head *head, u32 leaf)
{
	u32 at = head->header.verdicts_ref + leaf * IMAGE_VERDICT_WORDS;
	u32 action = match_word(s->generation, at), first = match_word(s->generation, at + 3);

	if (action > s->action || (action == s->action && first < s->first)) {
		s->action = action;
		s->error = match_word(s->generation, at + 1);
		s->first = first;
	}
	s->report |= match_word(s->generation, at + 2);
	s->signals |= match_word(s->generation, at + 4) | (u64)match_word(s->generation, at + 5) << 32;
}

/* The diagram of the event for the subject in one group. */
static __always_inline u64 decide_root(struct scratch *s, struct image_page *first, u64 group)
{
	struct image_head *head = (void *)first;

	return match_word_near(first, s->generation, head->header.roots_ref[group] + s->record.subject[group] * head->header.n_columns + s->column);
}

/* One more of each cause of the event, in the counters from `first` on. */
static __always_inline void count_causes(struct scratch *s, u32 first)
{
	u32 i;

	for (i = 0; i < CAUSES; i++) {
		if (s->flags >> EVENT_CAUSES_SHIFT & (1U << i))
			count(first + i);
	}
}

/* Something was uncertain. The compiler has put the strictest of the alternatives under each class that is uncertain, so only a walk that did
 * not come to its end is denied here.
 */
static __always_inline int decide_uncertain(struct scratch *s)
{
	count_causes(s, CNT_UNCERTAIN_MEMORY);
	if (s->action >= ACTION_DENY || !(s->flags & CAUSE_TABLE << EVENT_CAUSES_SHIFT) || !event_in(s->record.enforcing, s->event))
		return 0;
	count_refused(s->event, CNT_REFUSED_TABLE);
	return EPERM;
}

/* The process is to be killed. The kernel refuses that for its own threads, the first process, and tasks that are ending already. These are
 * denied, but where the act is done already, or goes on in any case.
 */
static __always_inline void decide_kill(struct scratch *s)
{
	if (bpf_send_signal(SIGKILL)) {
		s->action = s->event >= EV_DONE && s->event != EV_SENSOR_LSM ? ACTION_AUDIT : ACTION_DENY;
		s->flags |= EVENT_KILL_REFUSED;
		count(CNT_KILL_REFUSED);
	} else {
		count(CNT_KILLED);
	}
}

#define SIGNALS 64

/* Sends the acting process the signals that rules ask for. */
__noinline int decide_signals(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	u32 sig, refused = 0;
	u64 left;

	if (!s)
		return 0;
	left = s->signals;
	for (sig = 1; sig <= SIGNALS && left; sig++, left >>= 1) {
		if (!(left & 1))
			continue;
		if (bpf_send_signal(sig)) {
			count(CNT_SIGNALS_REFUSED);
			refused = 1;
		} else {
			count(CNT_SIGNALS_SENT);
		}
	}
	if (!refused)
		s->flags |= EVENT_SIGNALLED;
	return 0;
}

__noinline int decide_outcome(u32 slot)
{
	struct scratch *s = scratch_at(slot);

	if (!s)
		return 0;
	if (s->flags >> EVENT_CAUSES_SHIFT) {
		int error = decide_uncertain(s);

		if (error)
			return error;
	}
	if (!s->report && s->action < ACTION_DENY)
		return 0;
	if (s->flags & EVENT_ORIGIN) {
		s->report &= ~REPORT_DECISION;
		s->action = ACTION_NONE;
		s->error = 0;
		s->signals = 0;
	}
	if (s->action == ACTION_KILL) /* first: where interrupts are off, the kernel sends one signal and refuses the next */
		decide_kill(s);
	if (s->signals)
		decide_signals(slot);
	if (s->report)
		report(slot);
	if (s->action < ACTION_DENY) {
		if (s->report & REPORT_DECISION && s->report & (TO_DECISIONS | TO_CANDIDATES))
			count(CNT_AUDITED);
		return 0;
	}
	if (s->flags >> EVENT_CAUSES_SHIFT)
		count_causes(s, CNT_REFUSED_MEMORY);
	count(CNT_DENIED);
	return s->error ? s->error : EPERM;
}

__noinline int decide_rules(u32 slot)
{
	struct scratch *s = scratch_at(slot);
	struct image_page *first;
	struct image_head *head;
	u64 group, node;

	if (!s)
		return 0;
	/* The first leaf that says something sets error and first with the action; of the verdicts only n_groups are looked at. */
	s->action = ACTION_NONE;
	s->report = 0;
	s->signals = 0;
	first = match_page(s->generation, 0);
	if (!first) {
		set_uncertain(s, CAUSE_TABLE);
		return 1;
	}
	head = (void *)first;
	s->features = head->header.features;
	s->lasting = head->header.lasting[0] | (u64)head->header.lasting[1] << 32;
	if (s->event == EV_FILE_OPEN)
		s->lasting |= head->header.opened[0] | (u64)head->header.opened[1] << 32;
	s->counts = head->header.counts[0] | (u64)head->header.counts[1] << 32;
	s->n_groups = head->header.n_groups;
	s->column = head->header.column[MASKED(s->event, ABI_MAX_EVENTS - 1)];
	node = decide_root(s, first, 0);
	if (have_rdonly_cast && node < IMAGE_PAGE_WORDS)
		node = diagram_fast(s, slot, first, node);
	for (group = 0; group < ABI_MAX_GROUPS; group++) {
		u32 leaf;

		if (group >= s->n_groups)
			break;
		if (group > 0)
			node = decide_root(s, first, group);
		leaf = diagram_walk(s, slot, node);
		s->verdict[group] = leaf;
		if (leaf)
			decide_leaf(s, head, leaf);
	}
	s->flags |= s->record.flags >> RECORD_CAUSES_SHIFT << EVENT_CAUSES_SHIFT;
	return s->flags >> EVENT_CAUSES_SHIFT || s->report || s->action >= ACTION_DENY;
}

#endif
