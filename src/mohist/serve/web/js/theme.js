// Sets the chosen theme before anything is painted. A plain script, not a module: modules run too late.
{
  let chosen = "auto";
  try {
    chosen = JSON.parse(localStorage.getItem("mohist.settings") ?? "{}").theme ?? "auto";
  } catch {
    // Storage is off, or holds something else: the system's theme it is.
  }
  if (chosen !== "auto") document.documentElement.dataset.theme = chosen;
}
