/* Sorting, charts and the image browser. Everything else on the page works without this file.

The libraries lie in the page as gzip in base64 and are unpacked once they are needed: DataTables
when the page has been painted, Plotly when the first chart comes near. */
"use strict";

(() => {
  const root = document.documentElement;
  root.classList.add("js");

  const $ = (id) => document.getElementById(id);
  const idle = (work) =>
    "requestIdleCallback" in window
      ? requestIdleCallback(work, { timeout: 500 })
      : setTimeout(work, 20);

  async function unpacked(id) {
    const packed = atob($(id).textContent);
    const bytes = new Uint8Array(packed.length);
    for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const program = await new Response(stream).blob();
    return URL.createObjectURL(new Blob([program], { type: "text/javascript" }));
  }

  // ---- tables ----------------------------------------------------------------------------------

  async function tables() {
    const { default: DataTable } = await import(await unpacked("datatables"));
    DataTable.ext.errMode = "throw";
    const waiting = [...document.querySelectorAll("table.sortable")];
    const some = () => {
      const until = performance.now() + 30; // long pages stay responsive
      while (waiting.length && performance.now() < until) sortable(DataTable, waiting.shift());
      if (waiting.length) idle(some);
      else root.dataset.tables = "ready"; // tests wait for it
    };
    some();
  }

  function sortable(DataTable, table) {
    const none = { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null };
    const api = new DataTable(table, {
      paging: false,
      info: false,
      autoWidth: false,
      order: [],
      layout: none,
    });
    const filter = table.closest(".table").querySelector(".filter");
    const input = filter.querySelector("input");
    const count = filter.querySelector(".count");
    input.addEventListener("input", () => {
      const words = plain(input.value).split(/\s+/);
      api.search((row) => words.every((word) => plain(row).includes(word))).draw();
      const shown = api.rows({ search: "applied" }).count();
      count.textContent = input.value ? `${shown} of ${api.rows().count()} rows` : "";
    });
  }

  // Numbers have true minus signs, and keyboards have hyphens.
  function plain(text) {
    return text.toLowerCase().replaceAll("−", "-").trim();
  }

  // ---- charts ----------------------------------------------------------------------------------

  let plotly = null;

  function loaded() {
    plotly ??= unpacked("plotly").then(
      (address) =>
        new Promise((done, failed) => {
          const script = document.createElement("script");
          script.onload = () => done(window.Plotly);
          script.onerror = failed;
          script.src = address;
          document.head.append(script);
        }),
    );
    return plotly;
  }

  async function draw(chart) {
    if (chart.dataset.drawn) return;
    chart.dataset.drawn = "soon";
    const { data, layout } = JSON.parse(chart.querySelector("script").textContent);
    const own = { autosize: true, margin: { l: 60, r: 20, t: 30, b: 60 }, ...layout };
    for (const axis of ["xaxis", "yaxis"]) own[axis] = { automargin: true, ...own[axis] };
    delete own.width; // as wide as the page
    const Plotly = await loaded();
    await Plotly.newPlot(chart.querySelector(".plot"), data ?? [], own, {
      responsive: true,
      displaylogo: false,
      displayModeBar: false, // it hides the titles of panels
    });
    chart.dataset.drawn = "yes"; // and the picture gives way
  }

  function charts() {
    const near = new IntersectionObserver(
      (seen) => seen.filter((s) => s.isIntersecting).forEach((s) => draw(s.target)),
      { rootMargin: "600px" },
    );
    document.querySelectorAll(".chart").forEach((chart) => near.observe(chart));
  }

  // ---- the image browser -----------------------------------------------------------------------

  function browser() {
    const all = JSON.parse($("examples").textContent);
    const examples = all.examples.map(
      ([source, image, norm, attack, difference, adversarial, answers, facts]) => ({
        ...{ source, image, norm, attack, difference, adversarial, answers, facts },
        imageId: all.images[image][1],
      }),
    );
    const picks = ["source", "image", "norm", "attack", "target"];
    const select = Object.fromEntries(picks.map((name) => [name, $(`pick-${name}`)]));
    // A class of -1 is a network's that gave no finite answer, -2 of a vote that abstained.
    const named = (c) => (c in all.classes ? `${all.classes[c]} (${c})` : `class ${c}`);
    const className = (c) => (c < 0 ? (c === -2 ? "abstained" : "no finite answer") : named(c));
    const percent = (p) => (p === null ? "-" : `${(100 * p).toFixed(1)} %`);
    const webp = (text) => `data:image/webp;base64,${text}`;

    // Offers each value once; what was chosen before stays chosen if it is still there, and else
    // the first is, other than `unless`.
    function offer(name, options, unless) {
      const before = select[name].selectedOptions[0]?.dataset.what;
      const different = [...new Map(options.map((o) => [o.value, o])).values()];
      select[name].replaceChildren(...different.map(optionOf));
      const same = [...select[name].options].find((o) => o.dataset.what === before);
      const first = [...select[name].options].find((o) => o.dataset.what !== unless);
      (same ?? first ?? select[name].options[0]).selected = true;
      return select[name].value;
    }

    // `what` names an option beyond one source: an image has another number in another group.
    function optionOf({ value, text, what }) {
      const option = new Option(text, value);
      option.dataset.what = what ?? text;
      return option;
    }

    function sources() {
      const several = all.groups.length > 1;
      all.groups.forEach((group, g) => {
        const mine = all.sources.map(([of, text], value) => ({ of, text, value }));
        const options = mine.filter((s) => s.of === g).map(optionOf);
        const parent = several ? document.createElement("optgroup") : select.source;
        if (several) select.source.append(parent);
        parent.label = group;
        parent.append(...options);
      });
    }

    // Each choice narrows those after it, so that what is chosen always exists.
    function chosen() {
      let left = examples.filter((s) => s.source === Number(select.source.value));
      const texts = {
        image: (s) => `${s.imageId}: ${className(all.images[s.image][2])}`,
        norm: (s) => all.norms[s.norm][0],
        attack: (s) => all.attacks[s.attack],
      };
      for (const name of ["image", "norm", "attack"]) {
        const what = name === "image" ? (s) => s.imageId : texts[name];
        const options = left.map((s) => ({ value: s[name], text: texts[name](s), what: what(s) }));
        const value = Number(offer(name, options));
        left = left.filter((s) => s[name] === value);
      }
      return left[0];
    }

    function targets(example) {
      const source = all.sources[example.source][1];
      const options = example.answers.map(([network]) => {
        const what = all.networks[network];
        return { value: network, what, text: what === source ? `${what} (the source)` : what };
      });
      select.target.disabled = !options.length;
      if (options.length) offer("target", options, source);
      else select.target.replaceChildren(new Option("no target was asked", ""));
      return example.answers.find(([network]) => network === Number(select.target.value));
    }

    function show() {
      const example = chosen();
      const answer = targets(example);
      const [, id, label, clean] = all.images[example.image];
      const [norm, factor] = all.norms[example.norm];
      const source = all.sources[example.source][1];
      const how = `${all.attacks[example.attack]} on ${source}, ${norm}`;
      picture("clean", clean, `Clean image ${id}, ${className(label)}`);
      picture("difference", example.difference, `Perturbation of ${id} by ${how}, times ${factor}`);
      picture("adversarial", example.adversarial, `Adversarial image of ${id} by ${how}`);
      $("difference-caption").textContent =
        `Perturbation: (adversarial − clean) × ${factor}, around grey`;
      answersOf(example, source, answer);
      pairs($("facts"), [["label", className(label)], ...example.facts.map(([n, t]) => [all.facts[n], t])]);
      $("said").textContent = `Image ${id}, ${className(label)}; ${how}. ${sentence(answer)}`;
    }

    function picture(id, text, alt) {
      $(id).src = webp(text);
      $(id).alt = alt;
    }

    function sentence(answer) {
      if (!answer) return "No target was asked.";
      const [network, before, sure, after, surer, fooled] = answer;
      const end = fooled ? "fooled" : "not fooled";
      return (
        `${all.networks[network]} says ${className(before)} at ${percent(sure)} before and ` +
        `${className(after)} at ${percent(surer)} after: ${end}.`
      );
    }

    function answersOf(example, source, target) {
      const own = example.answers.find(([network]) => all.networks[network] === source);
      const rows = [["source", source, own]];
      if (target && target !== own) rows.push(["target", all.networks[target[0]], target]);
      $("answers").replaceChildren(...rows.map(([role, name, answer]) => line(role, name, answer)));
    }

    function line(role, name, answer) {
      const row = document.createElement("tr");
      const [, before, sure, after, surer, fooled] = answer ?? [];
      const cells = answer
        ? [
            `${className(before)}, ${percent(sure)}`,
            `${className(after)}, ${percent(surer)}`,
            fooled ? "yes" : "no",
          ]
        : ["not asked", "not asked", "—"];
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = `${name} (${role})`;
      row.append(head);
      for (const text of cells) row.insertCell().textContent = text;
      return row;
    }

    function pairs(list, entries) {
      list.replaceChildren(
        ...entries.map(([term, text]) => {
          const pair = document.createElement("div");
          pair.append(document.createElement("dt"), document.createElement("dd"));
          pair.firstChild.textContent = term;
          pair.lastChild.textContent = text;
          return pair;
        }),
      );
    }

    // From the last image to the first: a button that switches itself off would lose the focus.
    function move(by) {
      const n = select.image.options.length;
      select.image.selectedIndex = (select.image.selectedIndex + by + n) % n;
      show();
    }

    sources();
    for (const name of picks) select[name].addEventListener("change", show);
    $("previous").addEventListener("click", () => move(-1));
    $("next").addEventListener("click", () => move(1));
    $("words").textContent = all.words;
    show();
    $("viewer").hidden = false;
    root.dataset.browser = "ready";
  }

  // ---- print -----------------------------------------------------------------------------------

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details.printed:not([open])")];
    opened.forEach((details) => (details.open = true));
  });
  addEventListener("afterprint", () => opened.forEach((details) => (details.open = false)));

  // After `load`, so that the page is painted before anything is unpacked.
  addEventListener("load", () => {
    idle(() => $("examples") && browser());
    idle(tables);
    idle(charts);
  });
})();
