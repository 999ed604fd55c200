// An OpenID provider, certified software, that logs in whom `login_hint` names without asking.
// Arguments: the package's folder, a file with {port, resource, keys}.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

const [folder, file] = process.argv.slice(2);
const { Provider, errors } = await import(pathToFileURL(`${folder}/lib/index.js`));
const { port, resource, keys } = JSON.parse(readFileSync(file, 'utf8'));

const provider = new Provider(`http://localhost:${port}`, {
  clients: [
    {
      client_id: 'machine',
      client_secret: 'machines-secret',
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
    },
    {
      client_id: 'desk',
      redirect_uris: ['http://127.0.0.1/callback'],
      token_endpoint_auth_method: 'none',
    },
  ],
  jwks: { keys },
  cookies: { keys: ['of a test'] },
  scopes: ['openid'],
  claims: { openid: ['sub'] },
  pkce: { required: () => true },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    resourceIndicators: {
      enabled: true,
      useGrantedResource: () => true,
      getResourceServerInfo: (ctx, asked) => {
        if (asked !== resource) throw new errors.InvalidTarget();
        return {
          scope: 'tools results:write',
          audience: resource,
          accessTokenFormat: 'jwt',
          accessTokenTTL: 300,
        };
      },
    },
  },
  extraTokenClaims: (ctx, token) => ({
    tenant: token.kind === 'ClientCredentials' ? 'other' : 'demo',
  }),
  findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
  loadExistingGrant: async (ctx) => {
    const { client, session, provider: here } = ctx.oidc;
    const grant = new here.Grant({ clientId: client.clientId, accountId: session.accountId });
    grant.addOIDCScope('openid');
    grant.addResourceScope(resource, 'tools');
    await grant.save();
    return grant;
  },
});

const serve = provider.callback();
createServer(async (req, res) => {
  if (!req.url.startsWith('/interaction/')) return serve(req, res);
  const { params } = await provider.interactionDetails(req, res);
  return provider.interactionFinished(req, res, { login: { accountId: params.login_hint } });
}).listen(port, 'localhost', () => console.log('listening'));
