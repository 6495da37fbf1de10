import { defineConfig } from 'vite';

// The client is a folder of this checkout, linked into node_modules. An application that installs the package needs neither line.
export default defineConfig({
  resolve: { dedupe: ['react'] },
  server: { fs: { allow: ['../..'] } },
});
