// What grids draw by themselves: a cell that leads to another page.
window.dashAgGridComponentFunctions = window.dashAgGridComponentFunctions || {};
window.dashAgGridComponentFunctions.Link = function (props) {
  if (props.value === null || props.value === undefined) {
    return "–";
  }
  return window.React.createElement(
    "a",
    { href: props.to + encodeURIComponent(props.value), className: "pw-link", title: props.value },
    props.value
  );
};
