import { defineConfig } from "vite";

export default defineConfig({
  // Preact is an implementation of React's interface that makes the page 60 kB smaller.
  // To ship React itself, remove these lines.
  resolve: {
    alias: {
      "react-dom/client": "preact/compat/client",
      "react/jsx-runtime": "preact/jsx-runtime",
      react: "preact/compat",
    },
  },
  // While "npm run dev" serves the page, "./diner dev" answers its requests.
  server: { proxy: { "/v1": { target: "http://127.0.0.1:8080", ws: true } } },
});
