// The URL that asks the same again, as `write` of controls.py has it: what is usual is left out.
window.perfwatt = {
  words: function (sort, value, usual) {
    if (sort === "many") {
      return value && value.length ? value : [""];
    }
    if (value === null || value === undefined || value === "") {
      return sort === "time" ? [] : usual;
    }
    return [sort === "time" ? value.replace(" ", "T") + "Z" : String(value)];
  },
  query: function (page, given, leftOut) {
    const asked = new URLSearchParams();
    page.controls.forEach(function (control, at) {
      const said = window.perfwatt.words(control.sort, given[at], control.usual);
      if (control.key !== leftOut && JSON.stringify(said) !== JSON.stringify(control.usual)) {
        said.forEach((word) => asked.append(control.key, word));
      }
    });
    const text = asked.toString();
    return text ? "?" + text : "";
  },
  remembered: function (page, given, here) {
    const query = window.perfwatt.query(page, given, page.of);
    const whole = window.perfwatt.query(page, given, "");
    const until = page.controls.findIndex((control) => control.key === "until");
    const still = !page.live || (until >= 0 && Boolean(given[until]));
    const of = page.of ? given[page.controls.findIndex((control) => control.key === page.of)] : "";
    const path = page.of ? page.path + (of ? "/" + encodeURIComponent(of) : "") : here;
    Object.entries(page.twins).forEach(([id, twin]) => window.perfwatt.at(id, (link) => (link.href = twin + whole)));
    return [...(page.of ? [path] : []), query, path + query, still];
  },
  // What a page shows is put in its places without a component for each: Dash would ask every one of the page at every
  // change of another.
  show: async function (name, news) {
    if (!news) {
      return window.dash_clientside.no_update;
    }
    const { parts, has } = JSON.parse(news), first = [], { at, busy, inSight, later, put, shown, waiting } = window.perfwatt;
    Object.keys(parts).forEach((id) => (shown[id] = has[id]));
    try {
      Object.entries(parts).forEach(function ([id, part]) {
        if ("html" in part) {
          at(id, (place) => (place.innerHTML = part.html));
        }
      });
      // Only now it is known what is where.
      Object.entries(parts).forEach(function ([id, part]) {
        if (!("html" in part)) {
          inSight(id) ? first.push([id, part]) : later(id, part);
        }
      });
      first.forEach(([id]) => waiting.delete(id));
      await Promise.all(first.map(([id, part]) => put(id, part)));
      const now = Object.fromEntries(Object.keys(has).map((id) => [id, shown[id]]));
      if (Object.keys(has).some((id) => now[id] !== has[id])) {
        // It was asked before an answer stood that came in between: what that one changed is not told of.
        window.setTimeout(() => window.dash_clientside.set_props(name + "-tick", { n_intervals: Date.now() }));
      }
      return now;
    } finally {
      busy("page", false);
    }
  },
  // The digest of what stands in each place.
  shown: {},
  at: function (id, put) {
    const place = document.getElementById(id);
    return place && put(place);
  },
  busy: function (id, now) {
    window.perfwatt.at(id, (place) => place.setAttribute("aria-busy", now));
  },
  inSight: function (id) {
    const box = window.perfwatt.at(id, (place) => place.getBoundingClientRect());
    return box && box.bottom > 0 && box.top < window.innerHeight;
  },
  put: async function (id, part) {
    if (part.rows) {
      // By Dash: the script of a grid may still be on its way.
      window.dash_clientside.set_props(id, { rowData: part.rows, style: { height: part.height } });
      return;
    }
    await window.perfwatt.plotly();
    await window.perfwatt.at(id, async function (place) {
      await window.Plotly.react(place, part.figure.data, part.figure.layout, { displayModeBar: false });
      window.perfwatt.fitting.observe(place);
    });
  },
  // What is out of sight is drawn once what is in sight stands; the last that was told of it counts.
  waiting: new Map(),
  later: function (id, part) {
    const { busy, put, waiting } = window.perfwatt;
    busy(id, true);
    if (!waiting.has(id)) {
      window.requestIdleCallback(async function () {
        const last = waiting.get(id);
        waiting.delete(id);
        if (last) {
          await put(id, last);
        }
        busy(id, waiting.has(id));
      });
    }
    waiting.set(id, part);
  },
  // Plotly is some megabytes: it comes with the first chart.
  plotly: function () {
    window.perfwatt.loading ??= new Promise(function (done, failed) {
      const script = document.createElement("script");
      script.src = window._dashPlotlyJSURL;
      script.onload = done;
      script.onerror = function () {
        window.perfwatt.loading = null;
        failed(new Error("Plotly did not load"));
      };
      document.head.append(script);
    });
    return window.perfwatt.loading;
  },
  // Plotly's own way listens at the window, and so keeps the charts of every page that was left.
  fitting: new ResizeObserver(function (changes) {
    changes.forEach(function ({ target, contentRect }) {
      const drawn = target._fullLayout;
      if (drawn && contentRect.width && (drawn.width !== contentRect.width || drawn.height !== contentRect.height)) {
        window.Plotly.Plots.resize(target);
      }
    });
  }),
};
// A link of a page turns it in place.
document.addEventListener("click", function (event) {
  const link = event.target.closest("#page a[href^='/']");
  const other = event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey;
  if (link && !other && !event.defaultPrevented && !/\.(csv|json)$/.test(link.pathname)) {
    event.preventDefault();
    window.history.pushState({}, "", link.href);
    window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
    window.scrollTo(0, 0);
  }
});
// What grids draw by themselves: a cell that leads to another page.
window.dashAgGridComponentFunctions = window.dashAgGridComponentFunctions || {};
window.dashAgGridComponentFunctions.Link = function (props) {
  if (props.value === null || props.value === undefined) {
    return "–";
  }
  const of = props.of ? props.data[props.of] : props.value;
  if (of === null || of === undefined) {
    return props.value;
  }
  return window.React.createElement(
    "a",
    { href: props.to + encodeURIComponent(of), className: "pw-link", title: props.value },
    props.value
  );
};
// The app takes the place of the page as plain HTML in the same frame.
(function () {
  const first = document.getElementById("first"), entry = document.getElementById("react-entry-point");
  if (first && entry) {
    new MutationObserver(function (_, seen) {
      if (document.querySelector("#page .pw-status:not(:empty)")) {
        first.remove();
        seen.disconnect();
      }
    }).observe(entry, { childList: true, subtree: true });
  }
})();
