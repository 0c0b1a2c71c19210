import { useCallback, useEffect, useState } from "../../vendor/preact.js";
import { ApiError } from "../api.js";
import { notify } from "../state.js";

/** What `fetchIt` resolves to: `{data, error, reload}`, again every `everyMs` while the page is seen (0: once). */
export function useLoad(fetchIt, everyMs = 0) {
  const [result, setResult] = useState({ data: null, error: null });
  const reload = useCallback(async () => {
    try {
      const data = await fetchIt();
      setResult({ data, error: null });
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      setResult((before) => ({ data: before.data, error }));
    }
  }, []);
  useEffect(() => {
    reload();
    if (!everyMs) return undefined;
    const timer = setInterval(() => document.hidden || reload(), everyMs);
    return () => clearInterval(timer);
  }, []);
  return { ...result, reload };
}

/** Do something on the server; what goes wrong is shown. Resolves to the answer, or undefined. */
export async function attempt(doing) {
  try {
    return await doing;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    notify(error.message, { tone: "bad" });
    return undefined;
  }
}
