// Certificates of an authority made for one run, by the openssl command.
import { execFile } from 'node:child_process'
import { copyFile, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'

const exec = promisify(execFile)
const KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes']

/** An authority in `folder`, which `issue`s certificates: for this machine, and for clients of it. */
export async function authority(folder, name = 'ca') {
  const path = (file) => join(folder, file)
  const [key, pem] = [path(`${name}.key`), path(`${name}.pem`)]
  await exec('openssl', ['req', '-x509', ...KEY, '-keyout', key, '-out', pem, '-days', '30', '-subj', `/CN=${name}`])
  return {
    path: pem,
    pem: await readFile(pem, 'utf8'),
    async issue(whom, days = 30) {
      const [own, request, signed] = [path(`${whom}.key`), path(`${whom}.csr`), path(`${whom}.pem`)]
      const extensions = path(`${whom}.ext`)
      await writeFile(extensions, 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n')
      await exec('openssl', ['req', ...KEY, '-keyout', own, '-out', request, '-subj', `/CN=${whom}`])
      await exec('openssl', [
        ...['x509', '-req', '-in', request, '-CA', pem, '-CAkey', key, '-CAcreateserial'],
        ...['-days', String(days), '-extfile', extensions, '-out', signed],
      ])
      return { key: own, pem: signed, keyText: await readFile(own, 'utf8'), pemText: await readFile(signed, 'utf8') }
    },
  }
}

/** Puts a certificate where a server looks for it, as a renewal would: the key first, each at once. */
export async function install(from, to) {
  for (const part of ['key', 'pem']) {
    await copyFile(from[part], `${to[part]}.new`)
    await rename(`${to[part]}.new`, to[part])
  }
}
