// SPDX-License-Identifier: Apache-2.0
/* A program with functions and static probes to be watched: tests/kernel/test_uprobes.py. Its first word is the act:
 *
 *	call NUMBER TEXT      calls watched_call, prints what that returns
 *	deep NUMBER           watched_deep calls itself so many times
 *	probe NUMBER TEXT     passes the static probes bpfence_test:watched and :guarded
 *	guard                 exits with 1 where somebody watches bpfence_test:guarded
 *	env TEXT              calls setenv of the C library
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A place with a name: a note that says where a nop is, where the counter, and by `words` where the arguments are. It is not loaded. */
#define STATIC_PROBE(name, counter, words, ...) \
	asm volatile("990: nop\n" \
		     ".pushsection .note.stapsdt, \"\", \"note\"\n" \
		     ".balign 4\n" \
		     ".4byte 992f - 991f, 994f - 993f, 3\n" \
		     "991: .asciz \"stapsdt\"\n" \
		     "992: .balign 4\n" \
		     "993: .8byte 990b, 0, " counter "\n" \
		     ".asciz \"bpfence_test\", \"" name "\", \"" words "\"\n" \
		     "994: .balign 4\n" \
		     ".popsection\n" ::__VA_ARGS__)

__attribute__((section(".probes"), used)) volatile unsigned short guarded_counter;

struct values {
	int32_t numbers[4];
	uint8_t byte;
};

__attribute__((noinline)) long watched_call(int number, const char *text, const void *bytes, unsigned int length)
{
	asm volatile("" ::"r"(text), "r"(bytes), "r"(length) : "memory");
	return number - 100;
}

__attribute__((noinline)) int watched_deep(int number)
{
	int more = number > 0 ? watched_deep(number - 1) : 0;

	asm volatile("" ::: "memory");
	return more + 1;
}

/* Inlined twice, so that the probe is at two places. */
static inline __attribute__((always_inline)) void pass(int number, const char *text, struct values *values, long index)
{
	STATIC_PROBE("watched", "0", "-4@%k0 8@%1 4@$77 -4@4(%2) 1@16(%2) -4@(%2,%3,4)", "r"(number), "r"(text), "r"(values), "r"(index));
}

static int probe(int number, const char *text)
{
	struct values values = { { 1, -2, 3, -4 }, 255 };

	asm volatile("" ::"r"(&values) : "memory");
	if (number < 0)
		pass(number, text, &values, 3);
	else
		pass(number + 1, text, &values, 2);
	if (guarded_counter)
		STATIC_PROBE("guarded", "guarded_counter", "-4@%k0", "r"(number));
	return 0;
}

int main(int count, char **words)
{
	const char *act = count > 1 ? words[1] : "";

	if (!strcmp(act, "call") && count == 4)
		printf("%ld\n", watched_call(atoi(words[2]), words[3], words[3], strlen(words[3])));
	else if (!strcmp(act, "deep") && count == 3)
		printf("%d\n", watched_deep(atoi(words[2])));
	else if (!strcmp(act, "probe") && count == 4)
		return probe(atoi(words[2]), words[3]);
	else if (!strcmp(act, "guard"))
		return guarded_counter > 0;
	else if (!strcmp(act, "env") && count == 3)
		return setenv("PROBED", words[2], 1);
	else
		return 200;
	return 0;
}
