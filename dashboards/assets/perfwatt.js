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
