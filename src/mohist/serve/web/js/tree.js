// A conversation is a tree: editing a question or asking again adds a sibling, and nothing is overwritten.
// `messages` maps ids to messages, oldest first; a message names its `parent` (null for a first one).
// The conversation's `head` is the leaf whose path from the root is on the screen.

/** The messages from the root to `head`. */
export function path(messages, head) {
  const found = [];
  for (let at = messages.get(head); at; at = messages.get(at.parent)) found.push(at);
  return found.reverse();
}

/** The ids of the messages that stand in one place, `id` among them, oldest first. */
export function siblings(messages, id) {
  const { parent } = messages.get(id);
  return [...messages.values()].filter((one) => one.parent === parent).map((one) => one.id);
}

/** For each place on a path its siblings, in one pass over the conversation. */
export function branches(messages, shown) {
  const byParent = new Map();
  for (const { id, parent } of messages.values()) {
    if (!byParent.has(parent)) byParent.set(parent, []);
    byParent.get(parent).push(id);
  }
  return new Map(shown.map(({ id, parent }) => [id, byParent.get(parent)]));
}

/** The leaf that is reached from `id` by always taking the newest child. */
export function leaf(messages, id) {
  const newest = new Map();
  for (const one of messages.values()) newest.set(one.parent, one.id);
  let at = id;
  while (newest.has(at)) at = newest.get(at);
  return at;
}
