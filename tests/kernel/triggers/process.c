/* SPDX-License-Identifier: Apache-2.0 */
/* Acts of processes: memory, signals, namespaces, modules. Part of the trigger. */
#define _GNU_SOURCE
#include <stddef.h>

#include "trigger.h"

const struct act process_acts[] = {
	{NULL, NULL},
};
