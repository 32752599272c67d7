"use strict";
for (const block of document.querySelectorAll("article.card pre, pre.copy")) {
  const holder = document.createElement("div");
  const button = document.createElement("button");
  const told = document.createElement("span");
  holder.className = "copied";
  button.type = "button";
  button.className = "copier";
  button.textContent = "Copy";
  told.className = "unseen";
  told.setAttribute("role", "status");
  block.before(holder);
  holder.append(block, button, told);
  const tell = (text) => {
    button.textContent = told.textContent = text;
    setTimeout(() => { button.textContent = "Copy"; told.textContent = ""; }, 2000);
  };
  button.addEventListener("click", () => {
    const selected = () => { getSelection().selectAllChildren(block); tell("Press Ctrl+C"); };
    if (!navigator.clipboard) return selected();
    navigator.clipboard.writeText(block.textContent.replace(/\n$/, "")).then(() => tell("Copied"), selected);
  });
}
