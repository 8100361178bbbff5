// Draws the charts of a report, switches their axes, sorts its tables and copies its commands. Loads nothing.
"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const LOG_ERRORS = 1;  // of Vega: warnings are of empty layers
  const options = { renderer: "svg", actions: false, tooltip: { theme: "custom" }, logLevel: LOG_ERRORS };

  async function draw(chart) {
    const place = document.getElementById(chart.id);
    const { view } = await vegaEmbed(place, chart.spec, options);
    for (const control of document.querySelectorAll(`[data-chart="${chart.id}"]`)) {
      const value = () => control.type === "checkbox" ? control.checked : control.value;
      const setSignal = () => view.signal(control.dataset.signal, value()).runAsync();
      if (view.signal(control.dataset.signal) !== value()) await setSignal();
      control.addEventListener("change", setSignal);
    }
    place.dataset.state = "drawn";
  }

  async function drawAll() {
    for (const chart of charts) {
      await draw(chart);
      await new Promise((resume) => setTimeout(resume));  // the page stays usable meanwhile
    }
  }

  function sortBy(header) {
    const table = header.closest("table");
    const column = [...header.parentNode.children].indexOf(header);
    const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
    const isNumber = header.classList.contains("number");
    const value = (row) => row.children[column].dataset.value ?? row.children[column].textContent;
    const compare = (one, other) => isNumber ? parseFloat(one) - parseFloat(other) : one.localeCompare(other, "en");
    const isMissing = (text) => text === "" || text === "-";
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((one, other) => {
      const [first, second] = [value(one), value(other)];
      if (isMissing(first) || isMissing(second)) return isMissing(first) - isMissing(second);  // last either way
      return direction * compare(first, second);
    });
    body.append(...rows);
  }

  for (const header of document.querySelectorAll("th[data-sortable]")) {
    header.querySelector("button").addEventListener("click", () => sortBy(header));
  }
  for (const button of document.querySelectorAll("button[data-copies]")) {
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.previousElementSibling.textContent);
      button.textContent = "copied";
    });
  }
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });
  drawAll();
})();
