/* The theme makes a scrolling box reachable by keyboard when the page loads or changes its size; a box that was folded then has no size
   yet. So whatever unfolds counts as a change of size. */
(function () {
  "use strict";
  var measure = function () { window.dispatchEvent(new Event("resize")); };
  document.addEventListener("toggle", measure, true);
  document.addEventListener("click", function (event) { if (event.target.closest(".admonition-title, .sd-summary-title")) { measure(); } });
})();
