(function (name, apart) {
  "use strict";

  function signed(value) {
    var size = Math.floor(Math.abs(value) * 100 + 0.5);
    return (size ? (value < 0 ? "\u2212" : "+") : "") + (size / 100).toFixed(2);
  }

  function picture(letters) {
    var canvas = document.createElement("canvas"), pen, i, grey;
    canvas.width = canvas.height = 8;
    pen = canvas.getContext("2d");
    for (i = 0; i < 64; i += 1) {
      grey = Math.floor(255 - 14.5 * "0123456789abcdefg".indexOf(letters[i]) + 0.5);
      pen.fillStyle = "rgb(" + grey + "," + grey + "," + grey + ")";
      pen.fillRect(i % 8, Math.floor(i / 8), 1, 1);
    }
    return canvas.toDataURL();
  }

  function start(root) {
    var one = function (selector) { return root.querySelector(selector); };
    var data = JSON.parse(one("script[data-tlm-data]").textContent);
    var lists = Array.prototype.slice.call(root.querySelectorAll("select[data-choice]"));

    function update() {
      var test = Number(lists[0].value), method = Number(lists[1].value), asked = data.tests[test], same = 0;
      one("[data-asked]").src = picture(asked.ink);
      one("[data-asked]").alt = "a " + asked.label;
      data.ranked[method][test].forEach(function (pair, number) {
        var digit = data.train[pair[0]], image = one("[data-rank=\"" + number + "\"]");
        image.src = picture(digit.ink);
        image.alt = "a " + digit.label;
        image.dataset.index = digit.index;
        one("[data-score=\"" + number + "\"]").textContent = signed(pair[1]);
        same += number < data.count && digit.label === asked.label ? 1 : 0;
      });
      one("[data-said]").textContent = "A " + asked.label + ". Of the " + data.count + " most helpful training digits, " + same + " are of its class.";
    }

    apart(root);
    root.dataset.ready = "yes";
    lists.forEach(function (list) { list.addEventListener("change", update); });
    update();
  }

  document.querySelectorAll("[data-tlm-ranked=\"" + name + "\"]:not([data-ready])").forEach(start);
})
