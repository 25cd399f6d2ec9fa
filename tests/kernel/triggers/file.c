/* SPDX-License-Identifier: Apache-2.0 */
/* Acts on files and their attributes. Part of the trigger. */
#define _GNU_SOURCE
#include <stddef.h>

#include "trigger.h"

const struct act file_acts[] = {
	{NULL, NULL},
};
