"use strict";
(() => {
  const root = document.documentElement;
  const button = document.querySelector(".theme");
  const dark = () => {
    const chosen = root.style.colorScheme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const name = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.hidden = false;
  button.addEventListener("click", () => { root.style.colorScheme = dark() ? "light" : "dark"; name(); });
  name();

  const tools = document.querySelector(".tools");
  if (!tools) return;
  const tasks = [...document.querySelectorAll("details.task")];
  const [search, place, change, all, count] = ["search", "place", "change", "all", "count"].map(
    (id) => document.getElementById(id));
  const fits = (task) =>
    task.dataset.words.includes(search.value.trim().toLowerCase()) &&
    (!place.value || task.dataset.place === place.value) &&
    (!change.value || task.dataset.change === change.value);
  const sift = () => {
    let shown = 0;
    for (const task of tasks) { task.hidden = !fits(task); shown += !task.hidden; }
    count.textContent = `${shown} of ${tasks.length}`;
  };
  tools.hidden = false;
  for (const field of [search, place, change]) field.addEventListener("input", sift);
  all.addEventListener("click", () => {
    const open = all.dataset.open !== "yes";
    for (const task of tasks) if (!task.hidden) task.open = open;
    all.dataset.open = open ? "yes" : "no";
    all.textContent = open ? "Close all" : "Open all";
  });
  sift();
})();
