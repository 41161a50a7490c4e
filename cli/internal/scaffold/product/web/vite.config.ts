import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// While "npm run dev" serves the page, "go run . dev" answers its requests.
export default defineConfig({
  plugins: [react()],
  server: { proxy: { "/v1": { target: "http://127.0.0.1:8080", ws: true } } },
});
