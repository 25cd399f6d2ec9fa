/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Files that lie on others: a file of an overlay has a name, a mount and an inode of the overlay's own, and its contents are those of a file in
 * one of the layers, which has others. What is opened, overlayfs opens in the layer, too, and file_open sees both. Executing and mapping has
 * one hook only: it is decided for the one, then for the other.
 */
#ifndef BPFENCE_LAYER_H
#define BPFENCE_LAYER_H

#include "engine.h"

/* What was found out about the file's path is no longer true. */
static __always_inline void forget_path(struct scratch *s)
{
	u64 path = STR_BIT(STR_FILE_PATH);

	s->have_class &= s->counts; /* one act counts once */
	s->steps_of = STEPS_NONE;
	s->str_present &= ~path;
	s->str_tried &= ~path;
	s->str_uncertain &= ~path;
	s->foreign &= ~path;
	forget_num(s, NUM_FILE_OBJECT);
	forget_num(s, NUM_FILE_MEMFD);
}

/* Decides on the file of a layer, by its inode (0: there is none): for rules that follow objects. By name the file was asked about before. */
static __always_inline int decide_layer(struct scratch *s, u32 slot, u64 inode)
{
	u64 alias = inode ? compat_first_alias(inode) : 0;

	if (!alias)
		return 0;
	s->dentry[0] = alias;
	s->mount[0] = MOUNT_OF_LAYER;
	s->inode = inode;
	forget_path(s);
	return decide(slot);
}

/* What is decided after a file's own path. `overlay`: the file is one of an overlay, `layer` the inode in its layer, where that is known.
 * `what`: what may be noted, or 0; of an overlay only where both have been decided on.
 */
static __always_inline int decide_second(struct scratch *s, u32 slot, bool overlay, u64 layer, u32 what)
{
	bool layered = overlay && s->features & IMAGE_NEEDS_OBJECTS;
	int error = 0;

	if (!(layer || !layered) || !have_rdonly_cast || !have_inode_storage)
		what = 0;
	if (what)
		what = engine(ENGINE_QUIET, slot, what, layered, 0);
	if (layered) {
		error = decide_layer(s, slot, layer);
		if (!error && what && s->mount[0] == MOUNT_OF_LAYER)
			engine(ENGINE_QUIET_LAYER, slot, 0, 0, 0);
	}
	return error;
}

/* As decide, for a file that may be one of an overlay. `what`: as decide_second. */
static __always_inline int decide_layered(struct scratch *s, u32 slot, struct file *file, u32 what)
{
	bool overlay;
	int error = decide(slot);

	if (error)
		return error;
	overlay = compat_overlay(file);
	return decide_second(s, slot, overlay, overlay ? compat_layer(file) : 0, what);
}

#endif
