function (root) {
  "use strict";
  var name = root.id, number = 2;
  if (document.getElementById(name) === root) { return; }
  while (document.getElementById(name + "-" + number)) { number += 1; }
  [root].concat(Array.prototype.slice.call(root.querySelectorAll("*"))).forEach(function (element) {
    ["id", "for", "aria-labelledby", "aria-describedby"].forEach(function (key) {
      var value = element.getAttribute(key);
      if (value && value.indexOf(name) === 0) { element.setAttribute(key, name + "-" + number + value.slice(name.length)); }
    });
  });
}
