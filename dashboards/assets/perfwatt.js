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
    const hrefs = page.twins.map((twin) => twin + whole);
    return [...(page.of ? [path] : []), query, path + query, still, ...hrefs];
  },
};
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
      if (document.querySelector("#page .pw-stack")) {
        first.remove();
        seen.disconnect();
      }
    }).observe(entry, { childList: true, subtree: true });
  }
})();
