// The paper of a pad: drawn on by pointer, finger and keyboard; hands the ink of its 64 cells to `changed` at the start and
// after every change.
function (root, examples, changed) {
  "use strict";
  var SIDE = 8, INKS = 16, active = 0, last = null, erasing = false, ink = examples[0].ink.slice();
  var one = function (selector) { return root.querySelector(selector); };
  var all = function (selector) { return Array.prototype.slice.call(root.querySelectorAll(selector)); };
  var paper = one("[data-paper]"), cells = all("[role=gridcell]"), heard = one("[data-heard]");

  function update() {
    cells.forEach(function (cell, i) {
      var grey = Math.floor(255 - 14.5 * ink[i] + 0.5);
      cell.style.background = "rgb(" + grey + "," + grey + "," + grey + ")";
      cell.setAttribute("aria-label", "row " + (Math.floor(i / SIDE) + 1) + ", column " + (i % SIDE + 1) + ": ink " + ink[i] + " of " + INKS);
    });
    changed(ink.slice());
  }

  function activate(index) {
    cells[active].removeAttribute("data-active");
    active = index;
    cells[active].setAttribute("data-active", "");
    paper.setAttribute("aria-activedescendant", cells[active].id);
  }

  function set(value) {
    ink[active] = value;
    update();
    heard.textContent = cells[active].getAttribute("aria-label");
  }

  // Full ink up to 0.3 cells from the stroke, none beyond 1.2: about as wide and as grey as the strokes of the data.
  function stroke(from, to) {
    var along = [to[0] - from[0], to[1] - from[1]], length = along[0] * along[0] + along[1] * along[1];
    ink = ink.map(function (before, i) {
      var way = [i % SIDE + 0.5 - from[0], Math.floor(i / SIDE) + 0.5 - from[1]];
      var part = length ? Math.min(1, Math.max(0, (way[0] * along[0] + way[1] * along[1]) / length)) : 0;
      var far = Math.hypot(way[0] - part * along[0], way[1] - part * along[1]);
      var wet = Math.round(INKS * Math.min(1, Math.max(0, (1.2 - far) / 0.9)));
      return erasing ? Math.min(before, INKS - wet) : Math.max(before, wet);
    });
  }

  function place(event) {
    var box = paper.getBoundingClientRect();
    return [(event.clientX - box.left - paper.clientLeft) / paper.clientWidth * SIDE, (event.clientY - box.top - paper.clientTop) / paper.clientHeight * SIDE];
  }

  paper.addEventListener("pointerdown", function (event) {
    if (event.button !== 0 || last) { return; }
    paper.removeAttribute("data-keys");
    paper.setPointerCapture(event.pointerId);
    last = { id: event.pointerId, at: place(event) };
    activate(SIDE * Math.min(SIDE - 1, Math.max(0, Math.floor(last.at[1]))) + Math.min(SIDE - 1, Math.max(0, Math.floor(last.at[0]))));
    stroke(last.at, last.at);
    update();
  });
  paper.addEventListener("pointermove", function (event) {
    if (!last || event.pointerId !== last.id) { return; }
    var now = place(event);
    stroke(last.at, now);
    last.at = now;
    update();
  });
  ["pointerup", "pointercancel", "lostpointercapture"].forEach(function (kind) {
    paper.addEventListener(kind, function (event) { if (last && event.pointerId === last.id) { last = null; } });
  });

  paper.addEventListener("keydown", function (event) {
    var row = Math.floor(active / SIDE), column = active % SIDE, key = event.key;
    var moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -column], End: [0, SIDE - 1 - column] };
    if (event.ctrlKey || event.altKey || event.metaKey) { return; }
    if (moves.hasOwnProperty(key)) {
      activate(SIDE * Math.min(SIDE - 1, Math.max(0, row + moves[key][0])) + Math.min(SIDE - 1, Math.max(0, column + moves[key][1])));
    } else if (key === " ") { set(ink[active] ? 0 : INKS);
    } else if (/^[0-9]$/.test(key)) { set(Math.round(Number(key) / 9 * INKS));
    } else if (key === "Delete" || key === "Backspace") { set(0);
    } else { return; }
    paper.setAttribute("data-keys", "");
    event.preventDefault();
    event.stopPropagation();
  });

  one("[data-clear]").addEventListener("click", function () { ink = ink.map(function () { return 0; }); update(); });
  one("[data-eraser]").addEventListener("click", function (event) {
    erasing = !erasing;
    event.currentTarget.setAttribute("aria-pressed", String(erasing));
  });
  all("[data-example]").forEach(function (button, i) {
    button.addEventListener("click", function () { ink = examples[i].ink.slice(); update(); });
  });

  paper.tabIndex = 0;
  activate(0);
  update();
}
