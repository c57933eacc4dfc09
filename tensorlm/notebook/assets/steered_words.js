function (data, one, all, chosen, signed) {
  "use strict";
  var prompt = function () { return data.prompts[chosen()[0]]; };

  function horner(row, strength) {
    return row.reduceRight(function (value, coefficient) { return value * strength + coefficient; }, 0);
  }

  function chance(value) { return (Math.floor(value * 1000 + 0.5) / 1000).toFixed(3); }

  return {
    evaluate: function (strength) {
      var logits = data.logits[chosen()[0]][chosen()[1]].map(function (row) { return horner(row, strength); });
      var largest = Math.max.apply(null, logits), out = { sum: 0 };
      var total = logits.reduce(function (sum, value) { return sum + Math.exp(value - largest); }, 0);
      prompt().tokens.forEach(function (token, i) { out["w" + (i + 1)] = Math.exp(logits[token] - largest) / total; });
      data.paths[chosen()[0]][chosen()[1]].forEach(function (row, i) {
        out["p" + (i + 1)] = horner(row, strength);
        out.sum += out["p" + (i + 1)];
      });
      return out;
    },
    below: function (probability) { return (1.02 - probability) / 1.04; },
    reach: function () { return data.reach[chosen()[0]]; },
    text: function (key, value) { return key.charAt(0) === "w" ? chance(value) : signed(value); },
    redraw: function (path) {
      all("[data-line]").forEach(function (line, index) {
        var key = line.dataset.line, word = prompt().words[index];
        one("[data-row=" + key + "]").hidden = word === undefined;
        one("[data-word=" + key + "]").textContent = word === undefined ? "" : word;
        if (word === undefined) { line.setAttribute("display", "none"); return; }
        line.removeAttribute("display");
        one("[data-curve=" + key + "]").setAttribute("d", path(key));
      });
      one("[data-contest]").textContent = prompt().contest;
    }
  };
}
