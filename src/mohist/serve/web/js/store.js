// One value that the page watches. `set` merges a patch; whoever selected something that changed is drawn anew.

import { useEffect, useState } from "../vendor/preact.js";

export function createStore(initial) {
  let value = initial;
  const watchers = new Set();
  return {
    get: () => value,
    set(patch) {
      value = { ...value, ...patch };
      for (const watcher of [...watchers]) watcher(value);
    },
    watch(watcher) {
      watchers.add(watcher);
      return () => watchers.delete(watcher);
    },
  };
}

/** What `select` picks out of a store, for a component; it is drawn anew when that is another value. */
export function useStore(store, select) {
  const [, draw] = useState(0);
  const selected = select(store.get());
  useEffect(() => {
    let last = selected;
    const look = (value) => {
      const now = select(value);
      if (!Object.is(now, last)) {
        last = now;
        draw((count) => count + 1);
      }
    };
    look(store.get());
    return store.watch(look);
  }, [store]);
  return selected;
}
