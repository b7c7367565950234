/* The theme, then tables and charts. */
(() => {
  const root = document.documentElement;
  const media = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : media.matches);
  const name = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to the ${isDark() ? "light" : "dark"} theme`);
    root.dataset.drawn = isDark() ? "dark" : "light";
  };
  root.classList.add("js");
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    name();
    Charts.repaint();
  });
  media.addEventListener("change", () => { name(); Charts.repaint(); });
  name();
  for (const table of document.querySelectorAll("main table")) Tables.enhance(table);
  Charts.start();
  /* What is folded is printed too. */
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details:not(.numbers):not([open])")) { part.open = true; part.dataset.shut = "yes"; }
  });
  addEventListener("afterprint", () => {
    for (const part of document.querySelectorAll("details[data-shut]")) { part.open = false; delete part.dataset.shut; }
  });
  root.dataset.ready = "yes";
})();
