import { Component, h } from "../../vendor/preact.js";

/** A component that is drawn anew only when one of its properties is another value. */
export function memo(Inner) {
  return class extends Component {
    shouldComponentUpdate(next) {
      const names = Object.keys(next);
      return names.length !== Object.keys(this.props).length || names.some((name) => next[name] !== this.props[name]);
    }

    render() {
      return h(Inner, this.props);
    }
  };
}
