// The wire between the page and the desk: Gradio carries wishes there and answers back.
const bus = (window.tickertape ??= new EventTarget());
bus.addEventListener("wish", (event) => {
  props.value = event.detail;
  trigger("submit");
});
bus.addEventListener("leave", () => trigger("stop"));
watch("value", () => bus.dispatchEvent(new CustomEvent("answer", { detail: props.value })));
